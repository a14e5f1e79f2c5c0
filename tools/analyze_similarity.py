"""Compare tokens of the same class and of different classes by cosine (ALGM, figure 2)."""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path

from mmtokmerge.engine.cli import run_tool

EXAMPLES = """\
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


def main() -> None:
    """Parse the command line and measure."""
    args = parse_args()
    from mmtokmerge.analysis.similarity_command import analyze_similarity

    analyze_similarity(args)


def parse_args() -> Namespace:
    """The command line; see ``--help``."""
    from mmtokmerge.analysis.options import make_parser

    parser = make_parser(__doc__, EXAMPLES)
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
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(run_tool(main))
