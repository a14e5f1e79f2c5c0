"""The command line of ``tools/analyze_sharing.py``."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import DictAction


def make_parser(description: str | None, examples: str) -> argparse.ArgumentParser:
    """A parser with one command for each analysis."""
    parser = argparse.ArgumentParser(
        description=description, epilog=examples, formatter_class=argparse.RawTextHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _statistics(commands)
    _consistency(commands)
    _route(commands)
    _tradeoff(commands)
    return parser


def read_number(text: str) -> int | float:
    """S: an int as it is, anything else as a fraction."""
    return int(text) if text.isdigit() else float(text)


def _statistics(commands: Any) -> None:
    add = _command(commands, "statistics", "single-class superpatches by image (figure 2)")
    add("config", help="config of a segmentation model or policy network with the data set")
    add("--split", choices=("train", "test"), default="train", help="whose (default: %(default)s)")
    add("--patch-size", type=int, default=16, metavar="P", help="pixels (default: %(default)s)")
    add(
        "--border",
        choices=("split", "ignore"),
        default="split",
        help="superpatches of one class beside ignored pixels are mixed ('split') or\n"
        "left out ('ignore') (default: %(default)s)",
    )
    size = {"type": int, "nargs": 2, "metavar": ("H", "W")}
    add("--shape", **size, help="resize labels to this (default: as the test has its images)")
    add("--crop", **size, help="then take this middle part; shorter sides stay as they are")
    add("--bins", type=int, default=20, metavar="N", help="of the plot (default: %(default)s)")
    add(
        "--overlay",
        nargs="+",
        default=[],
        metavar="NAME=JSON",
        help="draw other data sets' statistics.json into the plot",
    )
    _common(add, device=False)


def _consistency(commands: Any) -> None:
    add = _command(commands, "consistency", "mIoU with one class for each shared token (table 7a)")
    add("config", help="config of a segmentation model with model.backbone.sharing")
    add("checkpoint", help="its weights: a file, or a URL")
    _models(add, required=False, words="another model for another line of the table")
    _common(add)


def _route(commands: Any) -> None:
    add = _command(commands, "route", "the model for each image by its policy (table 7b)")
    _models(add, required=True, words="a model trained with one setting S; repeat it for each")
    add(
        "--threshold",
        type=float,
        default=0.5,
        metavar="T",
        help="S* counts superpatches with a higher score (default: %(default)s)",
    )
    add("--alone", action="store_true", help="also give each model's mIoU over all images")
    _common(add)


def _tradeoff(commands: Any) -> None:
    add = _command(commands, "tradeoff", "mIoU against tokens and speed (table 1, figure 5)")
    _models(add, required=True, words="repeat it for each; the first is what others compare with")
    add(
        "--num-shared",
        type=read_number,
        nargs="+",
        default=[],
        metavar="S",
        help="also test models that share with each S, without training anew: a whole number, or\n"
        "with a point a fraction of the superpatches",
    )
    add(
        "--shape",
        type=int,
        nargs=2,
        metavar=("H", "W"),
        help="resize images to this for speed, GFLOPs and tokens (default: as the test has them);\n"
        "the mIoU is that of the config's test in any case",
    )
    add(
        "--repeats",
        type=int,
        default=1,
        metavar="N",
        help="times each image is timed, the median counts (default: %(default)s)",
    )
    _common(add)


def _command(commands: Any, name: str, words: str) -> Any:
    parser = commands.add_parser(
        name, help=words, description=words, formatter_class=argparse.RawTextHelpFormatter
    )
    return parser.add_argument


def _models(add: Any, required: bool, words: str) -> None:
    shape: Mapping[str, Any] = {"nargs": 2, "metavar": ("CONFIG", "CHECKPOINT")}
    add("--model", **shape, action="append", default=[], required=required, help=words)
    add(
        "--policy",
        metavar="CHECKPOINT",
        help="weights of the policy networks (default: what the configs name)",
    )


def _common(add: Any, device: bool = True) -> None:
    add("--out", type=Path, required=True, metavar="DIR", help="folder for the results")
    add("--num-images", type=int, metavar="N", help="images drawn at random (default: all)")
    add("--seed", type=int, default=0, help="of the draw (default: %(default)s)")
    if device:
        add("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    add(
        "--cfg-options",
        nargs="+",
        action=DictAction,
        metavar="KEY=VALUE",
        help="override settings of all configs: dotted keys, lists as 'key=[a,b]' without spaces",
    )
