"""Convert CamVid's 32-class colour release into the folders that the CamVid configs read."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

EXPLANATION = """
The release is two archives: 701_StillsRaw_full (701 photographs of 960x720 pixels) and
LabeledApproved_full (a colour label *_L.png for each). This writes

  OUT/images/{train,val,test}/*.jpg
  OUT/annotations/{train,val,test}/*.png    ids 0 to 10, 255 for void

with the 32 classes grouped into the 11 of SegNet and SegNet's split of 367, 101 and 233 frames.
OUT appears when everything is converted, or not at all.

example:
  python tools/dataset_converters/camvid.py 701_StillsRaw_full LabeledApproved_full
  python tools/train.py configs/segformerpp/b0_camvid_hq.py

The SegNet release (train, trainannot, ...) needs no conversion: inherit
configs/_base_/datasets/camvid_segnet.py instead of camvid.py.
"""


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """The command line; see ``--help``."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXPLANATION, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("images", type=Path, help="the folder 701_StillsRaw_full")
    parser.add_argument("labels", type=Path, help="the folder LabeledApproved_full")
    parser.add_argument(
        "--out", type=Path, default=Path("data/camvid"), help="the new folder (%(default)s)"
    )
    parser.add_argument(
        "--size",
        type=int,
        nargs=2,
        default=(480, 360),
        metavar=("WIDTH", "HEIGHT"),
        help="size of what is written in pixels (480 360, as in SegNet; the release has 960 720)",
    )
    return parser.parse_args(argv)


def convert(images: Path, labels: Path, out: Path, size: tuple[int, int]) -> int:
    """Convert every label's frame; the number of frames.

    Raises:
        InputError: ``out`` exists, a folder is empty, ``size`` is not positive, a photograph is
            missing, or a file is not as the release has it.
    """
    from rich.progress import track

    from mmtokmerge.datasets.camvid_colours import convert_frame
    from mmtokmerge.datasets.new_folder import new_folder
    from mmtokmerge.errors import InputError

    if min(size) < 1:
        raise InputError(f"--size is {size[0]} {size[1]}, but takes two positive numbers of pixels")
    if out.exists():
        raise InputError(f"{out} exists already: remove it or name another folder with --out")
    frames = sorted(labels.glob("*_L.png"))
    if not frames:
        raise InputError(f"no colour labels *_L.png found in {labels}")
    with new_folder(out) as scratch:
        for label in track(frames, description="CamVid"):
            image = images / f"{label.stem.removesuffix('_L')}.png"
            convert_frame(image, label, scratch, size)
    return len(frames)


def main(argv: list[str] | None = None) -> None:
    """Run the tool."""
    args = parse_args(argv)
    from mmtokmerge.errors import InputError

    try:
        number = convert(args.images, args.labels, args.out, tuple(args.size))
    except InputError as error:
        sys.exit(f"error: {error}")
    print(f"{number} frames written to {args.out}")


if __name__ == "__main__":
    from mmtokmerge.commands.main import guard

    sys.exit(guard(main))
