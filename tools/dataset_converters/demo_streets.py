"""Generate the demo data set: street scenes with labels, in Cityscapes' folders and classes."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

EXPLANATION = """
Large regions (road, buildings, sky, trees) stand beside small poles, traffic lights, signs and
fences, so that mIoU_small means something. The same numbers give the same bytes; a set that stands
already with these numbers is kept, and one with other numbers is replaced once the new one is done.

example:
  python tools/dataset_converters/demo_streets.py
  python tools/train.py configs/segformerpp/b0_demo_hq.py
"""


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """The command line; see ``--help``."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXPLANATION, formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    add("--out", type=Path, default=Path("data/demo_streets"), help="the folder (%(default)s)")
    add("--train", type=int, default=120, help="number of training images (%(default)s)")
    add("--val", type=int, default=20, help="number of validation images (%(default)s)")
    add("--height", type=int, default=512, help="of an image in pixels (%(default)s)")
    add("--width", type=int, default=1024, help="of an image in pixels (%(default)s)")
    add("--seed", type=int, default=0, help="another seed gives other streets (%(default)s)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Run the tool."""
    args = vars(parse_args(argv))
    out = args.pop("out")
    from rich.progress import track

    from mmtokmerge.datasets.demo_streets import StreetSet, make_demo_streets
    from mmtokmerge.errors import InputError

    try:
        drawn = make_demo_streets(out, StreetSet(**args), lambda jobs: track(jobs, "streets"))
    except InputError as error:
        sys.exit(f"error: {error}")
    print(
        f"{args['train']} + {args['val']} street scenes {'drawn in' if drawn else 'kept in'} {out}"
    )


if __name__ == "__main__":
    from mmtokmerge.commands.main import guard

    sys.exit(guard(main))
