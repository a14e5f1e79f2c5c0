"""Convert the annotation tables of the Jumping Broadcast Dataset into COCO keypoint files."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

EXPLANATION = """
A table is a CSV file (commas, semicolons or tabs) with a header and a row for each image. Columns
are found by name, their order does not matter:

  head_x, head_y, ..., ltoe_y    pixels of the 20 keypoints
  head_s, ..., ltoe_s            optional (or _v, _vis, _visible): 0 where it is not visible
  file_name or image             optional: else --image-name builds it of other columns

A keypoint without a place, or at (0, 0), is not visible. Rows without any visible keypoint show no
athlete: they are left out and counted, and --list writes their names. A box is the extent of the
visible keypoints, with a margin, clipped to the image.

Writes OUT/<table>.json for each table. example:
  python tools/dataset_converters/jbd.py tables/train.csv tables/val.csv tables/test.csv \\
      --images data/jbd/images --image-name "{event}_{frame_num:05d}.jpg"
  python tools/train.py configs/segformerpp/b0_jbd_hq.py
"""


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """The command line; see ``--help``."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXPLANATION, formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    add("tables", type=Path, nargs="+", help="CSV files, such as train.csv")
    add("--images", type=Path, default=Path("data/jbd/images"), help="their folder (%(default)s)")
    add("--out", type=Path, default=Path("data/jbd/annotations"), help="folder (%(default)s)")
    add("--image-name", metavar="TEMPLATE", help="a row's image, columns in braces")
    add("--margin", type=float, default=0.1, help="of a box, of its longer side (%(default)s)")
    add("--skip-missing", action="store_true", help="leave out and count rows without image file")
    add("--list", type=Path, metavar="FILE", help="write the images that are left out here")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Run the tool."""
    args = parse_args(argv)
    from mmtokmerge.datasets.keypoints.jbd_table import convert_table
    from mmtokmerge.errors import InputError

    left_out: list[str] = []
    try:
        if args.margin < 0:
            raise InputError(f"--margin is {args.margin}, but must be at least 0")
        for table in args.tables:
            done = convert_table(
                table, args.images, args.image_name, args.margin, args.skip_missing
            )
            target = args.out / f"{table.stem}.json"
            done.file.write(target)
            missing = f", {len(done.without_image)} without image file" if args.skip_missing else ""
            print(
                f"{target}: {done.used} athletes in {len(done.file.images)} images; left out: "
                f"{len(done.without_athlete)} without a visible athlete{missing}"
            )
            left_out += done.without_athlete + done.without_image
    except InputError as error:
        sys.exit(f"error: {error}")
    if args.list is not None:
        args.list.write_text("".join(f"{name}\n" for name in left_out))


if __name__ == "__main__":
    from mmtokmerge.commands.main import guard

    sys.exit(guard(main))
