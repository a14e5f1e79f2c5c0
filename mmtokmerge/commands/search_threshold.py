"""Find ALGM*: the smallest threshold at inference that costs no mIoU, and the whole trade-off."""

from __future__ import annotations

import argparse
from pathlib import Path

from mmtokmerge.commands.options import add_timing, add_trained_vit

EXAMPLES = """\
examples:
  python tools/search_threshold.py configs/algm/segmenter_vit-t_camvid_algm.py calibrated.pth \\
      --out work_dirs/search
  python tools/search_threshold.py CONFIG CHECKPOINT --taus 0.8 0.85 0.9 0.95 --num-images 100 \\
      --target-speedup 1.5 2.0 --out OUT
  python tools/search_threshold.py CONFIG ALGM.pth --baseline-checkpoint NONE.pth --out OUT
  python tools/search_threshold.py TOME_CONFIG CHECKPOINT --num-merged 4 8 16 --out tome
  python tools/search_threshold.py CONFIG CHECKPOINT --overlay ToMe=tome/search.json --out OUT

Every setting is tested on the same images of the test set: mIoU by the config's evaluator, tokens
kept and GFLOPs (1 MAC = 2 FLOPs) as means over what the network is given, throughput as the ratio
of median times of encoder, neck and head against the same network without merging, both timed in
turn on each image. ALGM* is the smallest threshold measured whose mIoU is not below the baseline's.
Finished settings are kept in OUT/search.json: a search that was stopped goes on when called again,
unless config, checkpoint, images or machine changed.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    add_trained_vit(parser)
    add = parser.add_argument
    add("--out", type=Path, required=True, metavar="DIR", help="folder for the results")
    add(
        "--baseline-checkpoint",
        metavar="C",
        help="weights whose mIoU without merging is to be kept (default: CHECKPOINT's)",
    )
    add("--taus", type=float, nargs="+", metavar="TAU", help="thresholds to measure")
    add("--steps", type=int, metavar="N", help="this many thresholds over --range (default: 11)")
    add(
        "--range",
        type=float,
        nargs=2,
        default=(0.5, 1.0),
        metavar=("LOW", "HIGH"),
        help="range of the thresholds (default: 0.5 1.0)",
    )
    add(
        "--refine",
        type=int,
        default=2,
        metavar="N",
        help="then halve the gap below ALGM* this often (default: %(default)s)",
    )
    add("--num-merged", type=int, nargs="+", metavar="R", help="ToMe's tokens merged a layer")
    add(
        "--target-speedup",
        type=float,
        nargs="+",
        default=[],
        metavar="X",
        help="also measure the threshold that should be this many times as fast, e.g. 1.5 2.0",
    )
    add_timing(parser)
    add(
        "--overlay",
        nargs="+",
        default=[],
        metavar="NAME=JSON",
        help="draw the fronts of other searches into the plot",
    )


def run(args: argparse.Namespace) -> None:
    """Search, print and save."""
    from mmtokmerge.analysis.thresholds.run import search_threshold

    search_threshold(args)
