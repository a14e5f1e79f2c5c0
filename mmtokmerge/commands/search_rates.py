"""Find rates, strides and options of MiT++'s merging for an image size: mIoU against speed."""

from __future__ import annotations

import argparse
from pathlib import Path

from mmtokmerge.commands.options import add_cfg_options, add_device, add_model

EXAMPLES = """\
examples:
  python tools/search_rates.py configs/segformerpp/b0_camvid_hq.py CHECKPOINT --out work_dirs/rates
  python tools/search_rates.py CONFIG CHECKPOINT --shape 512 1024 --num-images 100 --budget 40 \\
      --device cuda --out work_dirs/rates_512x1024
  python tools/search_rates.py CONFIG CHECKPOINT --out OUT --max-loss 0.5      # chooses again
  python tools/search_rates.py CONFIG CHECKPOINT --out OUT --choose 17 --name b0_camvid_17
  python tools/test.py work_dirs/rates/b0_camvid_hq_searched.py CHECKPOINT

Tests every preset and the config's own merging, then small changes of what is best so far: rates,
strides, what merges (q, kv; by matching or pooled, 'n2d'), proportional, destination, match,
unmerge and reuse, stage by stage or in all stages. Nothing is trained. Every setting is tested on
the same validation images: mIoU by the config's val_evaluator, GFLOPs (1 MAC = 2 FLOPs) as means
over what the network is given, throughput as the ratio of median times of encoder and head against
the same network without merging and with fused attention, both timed in turn on each image. A
setting that is no faster than no merging, or than a tested one that merges no more in any stage, is
only timed, on a few images.

Writes search.json, table.md, front.png and a config with the chosen merging, which inherits from
CONFIG. Finished settings are kept: a search that was stopped goes on when called again, and one
with a larger --budget continues, unless config, checkpoint, images, shape, seed or machine changed.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    add = parser.add_argument
    add_model(parser, "config of a segmentation model with mmtokmerge.MiTPlusPlus")
    add("--out", type=Path, required=True, metavar="DIR", help="folder for results and config")
    add(
        "--shape",
        type=int,
        nargs=2,
        metavar=("H", "W"),
        help="resize images to this, for mIoU and speed (default: as the test has them);\n"
        "predictions are compared with the labels at their own size, as in any test",
    )
    add(
        "--num-images",
        type=int,
        metavar="N",
        help="validation images drawn at random (default: all)",
    )
    add(
        "--budget",
        type=int,
        default=24,
        metavar="N",
        help="settings to test besides the presets (default: %(default)s); at most three times\n"
        "as many more are only timed",
    )
    add(
        "--seed",
        type=int,
        default=0,
        help="random seed of images and search (default: %(default)s)",
    )
    add_device(parser)
    add(
        "--repeats",
        type=int,
        default=3,
        metavar="N",
        help="times each image is timed, the median counts (default: %(default)s)",
    )
    add(
        "--choose",
        default="fastest",
        metavar="X",
        help="setting of the written config: 'fastest' within --max-loss, or its number in the\n"
        "table (default: %(default)s)",
    )
    add(
        "--max-loss",
        type=float,
        default=0.1,
        metavar="P",
        help="points of mIoU that the chosen setting may lose against no merging "
        "(default: %(default)s)",
    )
    add(
        "--name",
        help="name of the written config, without .py (default: <name of config>_searched)",
    )
    add_cfg_options(parser)


def run(args: argparse.Namespace) -> None:
    """Search, print and save."""
    from mmtokmerge.analysis.rates.run import search_rates

    search_rates(args)
