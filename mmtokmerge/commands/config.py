"""Print a config with all that it inherits, or write it as a file to begin one's own from."""

from __future__ import annotations

import argparse
from pathlib import Path

from mmtokmerge.commands.options import add_cfg_options

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

    text: str = load_config(args.config, args.cfg_options).pretty_text
    if args.out is None:
        print(text)
        return
    if args.out.suffix != ".py":
        raise InputError(f"--out {args.out} must end with .py, as configs do.")
    if args.out.exists():
        raise InputError(f"--out {args.out} exists already: name another file.")
    write_text(args.out, text)
    print(f"wrote {args.out}")
