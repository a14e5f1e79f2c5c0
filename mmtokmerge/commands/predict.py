"""Predict own pictures, folders, globs, videos or a camera, and draw what is found."""

from __future__ import annotations

import argparse
from pathlib import Path

from mmtokmerge.commands.options import add_cfg_options, add_device, add_model
from mmtokmerge.errors import InputError

EXAMPLES = """\
examples:
  python tools/predict.py b0_camvid_fast WEIGHTS.pth street.jpg
  python tools/predict.py CONFIG CHECKPOINT photos/ 'more/*.png' drive.mp4 --out predictions
  python tools/predict.py CONFIG CHECKPOINT street.jpg --tokens --compare none
  python tools/predict.py CONFIG CHECKPOINT aerial.tif --tile 1024 --overlap 128
  python tools/predict.py configs/segformerpp/b0_mouse_hq.py CHECKPOINT mouse.png
  torchrun --nproc_per_node 4 tools/predict.py CONFIG CHECKPOINT photos/ --device cuda

Of each picture NAME: NAME_overlay.png, the classes' colours over it, and NAME_labels.png, the class
of each pixel; for pose NAME_keypoints.json and the drawn keypoints. A picture is taken as its EXIF
data turns it; gray, transparent and 16-bit ones are read too. With rasterio
(pip install 'mmtokmerge[geo]') a TIFF's results are TIFFs of the same place on earth, in which 255
stands for no data. --tile cuts large pictures into overlapping tiles whose scores are blended; with
rasterio they are read and written tile by tile, in memory that does not grow with the picture
(a TIFF whose blocks are tiles; PNG and JPEG are read by rows). Several processes share the inputs.
A run that was stopped goes on where it was.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    add_model(parser, "config file, or its name alone, such as b0_camvid_fast")
    add = parser.add_argument
    add("inputs", nargs="+", metavar="INPUT", help="picture, folder, glob, video, camera's number")
    add("--out", type=Path, default=Path("predictions"), metavar="DIR", help="default: %(default)s")
    add("--tokens", action="store_true", help="also draw which tokens merge")
    add(
        "--compare",
        metavar="MERGING",
        help="also draw where the same weights predict something else with other merging:\n"
        "none; of MiT++ also hq, fast, n2d or plus; with --tile the picture is held whole",
    )
    add("--tile", type=int, metavar="N", help="cut pictures into tiles of N x N pixels")
    add(
        "--overlap",
        type=int,
        default=128,
        metavar="N",
        help="least overlap of neighbouring tiles in pixels (default: %(default)s)",
    )
    add("--max-frames", type=int, metavar="N", help="stop a video or camera after N frames")
    add(
        "--min-score",
        type=float,
        default=0.3,
        help="least score of a keypoint that is drawn (default: %(default)s)",
    )
    add("--again", action="store_true", help="predict what is there already once more")
    add_device(parser)
    add_cfg_options(parser)


def run(args: argparse.Namespace) -> None:
    """Predict, draw and save.

    Raises:
        InputError: If an argument, the config, the checkpoint or an input is wrong.
    """
    if args.tile is not None and args.tile < 32:
        raise InputError(f"--tile {args.tile} must be at least 32 pixels.")
    if args.tile is not None and not 0 <= args.overlap < args.tile:
        raise InputError(f"--overlap {args.overlap} must be from 0 to below --tile {args.tile}.")
    from mmtokmerge.inference.run import predict

    predict(args)
