"""What the command-line tools share: their arguments and how they report a person's mistake."""

from __future__ import annotations

import argparse
import os
import re
import sys
import traceback
from collections.abc import Callable

from mmengine.config import DictAction

from mmtokmerge.errors import InputError

TRACEBACK_ENV = "MMTOKMERGE_TRACEBACK"


def make_parser(description: str, examples: str) -> argparse.ArgumentParser:
    """A parser with the arguments of every tool that runs a config; examples end its help."""
    parser = argparse.ArgumentParser(
        description=description, epilog=examples, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("config", help="config file, such as configs/segformerpp/b0_camvid_hq.py")
    parser.add_argument(
        "--work-dir", help="folder for logs and results (default: work_dirs/<name of the config>)"
    )
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=DictAction,
        metavar="KEY=VALUE",
        help="override settings of the config: dotted keys, lists as 'key=[a,b]' without spaces,\n"
        "e.g. train_cfg.max_iters=500 model.backbone.merging=fast",
    )
    parser.add_argument(
        "--launcher",
        choices=("none", "pytorch", "slurm"),
        default="none",
        help="how several processes were started: pytorch under torchrun (see dist_*.sh),\n"
        "slurm under srun (see slurm_*.sh)",
    )
    parser.add_argument("--local_rank", "--local-rank", type=int, help=argparse.SUPPRESS)
    return parser


def run_tool(main: Callable[[], None]) -> int:
    """Run a tool and return its exit status; an InputError becomes one sentence on stderr."""
    try:
        main()
    except InputError as error:
        if os.environ.get(TRACEBACK_ENV) == "1":
            traceback.print_exc()
        sys.stdout.flush()  # what was said before stands before the error
        print(f"error: {sentence_of(error)}", file=sys.stderr)
        return 1
    return 0


def sentence_of(error: InputError) -> str:
    """The sentence of an error, also where a data-loader worker or a registry wrapped it."""
    last = re.split(r"\bInputError: ", str(error))[-1]
    last = re.sub(r"^class `\w+` in \S+: ", "", last)
    return last.strip()
