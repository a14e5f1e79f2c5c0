"""Analyse trained models: similarity of tokens (ALGM), what sharing gives (CTS)."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmtokmerge.commands.options import (
    add_cfg_options,
    add_device,
    add_images,
    add_timing,
    add_trained_vit,
)

EXAMPLES = """\
examples:
  python tools/analyze_sharing.py statistics configs/cts/segmenter_vit-t_camvid_none.py --out OUT
  python tools/analyze_sharing.py consistency configs/cts/segmenter_vit-t_camvid_cts.py CTS.pth \\
      --policy work_dirs/policynet_camvid/iter_800.pth --out OUT
  python tools/analyze_sharing.py route --model NONE_CONFIG NONE.pth --model CTS_CONFIG CTS.pth \\
      --policy POLICYNET.pth --threshold 0.5 --alone --out OUT
  python tools/analyze_sharing.py tradeoff --model NONE_CONFIG NONE.pth \\
      --model CTS_CONFIG CTS.pth --policy POLICYNET.pth --num-shared 0.1 0.2 0.6 --out OUT

statistics counts the superpatches of each label map, at the size at which the test has its image,
that hold a single class (or ignored pixels alone). consistency gives all pixels of a superpatch
whose patches share a token the class that most of them have; it needs whole-image inference. route
counts on each image the superpatches that the first policy network scores above the threshold, S*,
and lets the model with the highest S below S* process it; where there is none, the one with the
least S. tradeoff tests all models on the same images: mIoU by the config's evaluator, tokens and
GFLOPs (1 MAC = 2 FLOPs, policy network included) as means over what the network is given,
throughput as the ratio of median times of policy, encoder, neck and head against the first model,
both timed in turn on each image. Finished measurements are kept in OUT/measured.json.
"""


SIMILARITY = """\
examples:
  python tools/analyze_similarity.py configs/algm/segmenter_vit-t_camvid_none.py CHECKPOINT \\
      --out work_dirs/similarity
  python tools/analyze_similarity.py CONFIG CHECKPOINT --windows 2 4 8 --num-images 200 --out OUT

The model runs without merging over labelled images, prepared as in its test. After the attention
block of a layer every pair of tokens of an image is of one class or of two: once for the pairs
within k x k windows of layer 1, once for all pairs of the image in each layer. A token's class is
that of its patch's pixels; patches with pixels of several classes, ignored ones or ones outside the
image are left out, as are tokens outside full windows. Patches on the border of two classes are
mixed, so small windows have few pairs of two classes: --majority takes the class of more than half
of a patch's pixels. Means are over all pairs of all images.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add a command for each analysis."""
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _similarity(commands)
    _statistics(commands)
    _consistency(commands)
    _route(commands)
    _tradeoff(commands)


def run(args: argparse.Namespace) -> None:
    """Analyse, print and save."""
    if args.command == "similarity":
        from mmtokmerge.analysis.similarity.run import analyze_similarity

        analyze_similarity(args)
        return
    from mmtokmerge.analysis.sharing.run import analyze_sharing

    analyze_sharing(args)


def _similarity(commands: Any) -> None:
    words = "cosines of tokens of one class and of two (ALGM, figure 2)"
    parser = _command(commands, "similarity", words, SIMILARITY)
    add_trained_vit(parser)
    add = parser.add_argument
    add("--out", type=Path, required=True, metavar="DIR", help="folder for the results")
    add(
        "--windows",
        type=int,
        nargs="+",
        default=(2, 3, 4, 8, 16),
        metavar="K",
        help="sides of the windows, in tokens (default: 2 3 4 8 16)",
    )
    add(
        "--majority",
        action="store_true",
        help="a token's class is that of more than half of its pixels (default: of all of them)",
    )
    add(
        "--split",
        choices=("train", "test"),
        default="train",
        help="whose images (default: %(default)s, as in the paper)",
    )


def read_number(text: str) -> int | float:
    """S: an int as it is, anything else as a fraction."""
    return int(text) if text.isdigit() else float(text)


def _statistics(commands: Any) -> None:
    parser = _command(commands, "statistics", "single-class superpatches by image (figure 2)")
    add = parser.add_argument
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
    add("--bins", type=int, default=20, metavar="N", help="bins of the plot (default: %(default)s)")
    add(
        "--overlay",
        nargs="+",
        default=[],
        metavar="NAME=JSON",
        help="draw other data sets' statistics.json into the plot",
    )
    _common(parser, device=False)


def _consistency(commands: Any) -> None:
    parser = _command(
        commands, "consistency", "mIoU with one class for each shared token (table 7a)"
    )
    add = parser.add_argument
    add("config", help="config of a segmentation model with model.backbone.sharing")
    add("checkpoint", help="its weights: a file, or a URL")
    _models(add, required=False, words="another model for another line of the table")
    _common(parser)


def _route(commands: Any) -> None:
    parser = _command(commands, "route", "the model for each image by its policy (table 7b)")
    add = parser.add_argument
    _models(add, required=True, words="a model trained with one setting S; repeat it for each")
    add(
        "--threshold",
        type=float,
        default=0.5,
        metavar="T",
        help="S* counts superpatches with a higher score (default: %(default)s)",
    )
    add("--alone", action="store_true", help="also give each model's mIoU over all images")
    _common(parser)


def _tradeoff(commands: Any) -> None:
    parser = _command(commands, "tradeoff", "mIoU against tokens and speed (table 1, figure 5)")
    add = parser.add_argument
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
    add_timing(parser)
    _common(parser)


def _command(
    commands: Any, name: str, words: str, explanation: str | None = None
) -> argparse.ArgumentParser:
    return commands.add_parser(
        name,
        help=words,
        description=words,
        epilog=explanation,
        formatter_class=argparse.RawTextHelpFormatter,
    )


def _models(add: Any, required: bool, words: str) -> None:
    shape: Mapping[str, Any] = {"nargs": 2, "metavar": ("CONFIG", "CHECKPOINT")}
    add("--model", **shape, action="append", default=[], required=required, help=words)
    add(
        "--policy",
        metavar="CHECKPOINT",
        help="weights of the policy networks (default: what the configs name)",
    )


def _common(parser: argparse.ArgumentParser, device: bool = True) -> None:
    add = parser.add_argument
    add("--out", type=Path, required=True, metavar="DIR", help="folder for the results")
    add_images(parser)
    if device:
        add_device(parser)
    add_cfg_options(parser, "all configs")
