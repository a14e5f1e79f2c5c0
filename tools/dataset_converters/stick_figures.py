"""Generate the demo data set for pose: jumping stick figures with 20 keypoints, as JBD has."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

EXPLANATION = """
The pose configs run on it without any download. The same numbers give the same bytes; a set that
stands already with these numbers is kept, and one with other numbers is replaced once the new one
is done.

example:
  python tools/dataset_converters/stick_figures.py
  python tools/train.py configs/segformerpp/b0_stick_hq.py
"""


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """The command line; see ``--help``."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXPLANATION, formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    add("--out", type=Path, default=Path("data/stick_figures"), help="the folder (%(default)s)")
    add("--train", type=int, default=240, help="number of training images (%(default)s)")
    add("--val", type=int, default=40, help="number of validation images (%(default)s)")
    add("--height", type=int, default=256, help="of an image in pixels (%(default)s)")
    add("--width", type=int, default=256, help="of an image in pixels (%(default)s)")
    add("--seed", type=int, default=0, help="another seed gives other figures (%(default)s)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Run the tool."""
    args = vars(parse_args(argv))
    out = args.pop("out")
    from rich.progress import track

    from mmtokmerge.datasets.keypoints.stick_figures import FigureSet, make_stick_figures
    from mmtokmerge.errors import InputError

    try:
        drawn = make_stick_figures(out, FigureSet(**args), lambda jobs: track(jobs, "figures"))
    except InputError as error:
        sys.exit(f"error: {error}")
    print(f"{args['train']} + {args['val']} figures {'drawn in' if drawn else 'kept in'} {out}")


if __name__ == "__main__":
    from mmtokmerge.commands.main import guard

    sys.exit(guard(main))
