"""Print a config with all that it inherits, or write it as a file to begin one's own from."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from mmtokmerge.commands.options import add_cfg_options

if TYPE_CHECKING:
    from mmengine.config import Config

EXAMPLES = """\
examples:
  mmtokmerge config b0_cityscapes_hq
  mmtokmerge config b0_demo_hq --out mine_hq.py --cfg-options model.decode_head.num_classes=3
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.add_argument("config", help="config file, or its name alone, such as b0_cityscapes_hq")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="write it there, not on the screen"
    )
    add_cfg_options(parser)


def run(args: argparse.Namespace) -> None:
    """Print or write.

    Raises:
        InputError: There is no such config, or the file stands already or cannot be written.
    """
    from mmtokmerge.engine.config import load_config
    from mmtokmerge.errors import InputError
    from mmtokmerge.reporting.files import write_text

    cfg = load_config(args.config, args.cfg_options)
    check(cfg)
    text: str = cfg.pretty_text
    if args.out is None:
        print(text)
        return
    if args.out.suffix != ".py":
        raise InputError(f"--out {args.out} must end with .py, as configs do.")
    if args.out.exists():
        raise InputError(f"--out {args.out} exists already: name another file.")
    write_text(args.out, text)
    print(f"wrote {args.out}")


def check(cfg: Config) -> None:
    """Look at names and values, and build the model without memory.

    Raises:
        InputError: A name is unknown, or a value none that is allowed.
    """
    import torch
    from mmengine.registry import MODELS, DefaultScope

    from mmtokmerge.engine.config_check import check_names
    from mmtokmerge.engine.config_values import check_values
    from mmtokmerge.engine.first_step import building
    from mmtokmerge.engine.launch import import_scope

    scope = cfg.get("default_scope", "mmseg")
    import_scope(scope)
    check_values(cfg)
    check_names(cfg)
    if cfg.get("model"):
        own = DefaultScope.overwrite_default_scope(scope)
        with building("The model"), own, torch.device("meta"):
            try:
                MODELS.build(cfg.model)
            except (RuntimeError, NotImplementedError) as error:
                if "meta" not in str(error):  # hosts that read numbers when they build
                    raise
