"""Print what each preset of Segformer++ computes, part by part."""

from __future__ import annotations

import argparse

from mmtokmerge.errors import InputError

EXAMPLES = """\
examples:
  mmtokmerge cost --arch b0 --size 1024 2048

GMACs of the encoder for one image. 'limit' is the speed-up over 'none' if time went by MACs alone.
Memory traffic, norms and launches come on top, and merging can win more than the limit where the
attention it shortens is bound by memory.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.add_argument("--arch", default="b5", help="b0 to b5 (default: %(default)s)")
    parser.add_argument(
        "--size",
        type=int,
        nargs=2,
        default=(1024, 1024),
        metavar=("H", "W"),
        help="image in pixels (default: 1024 1024)",
    )


def run(args: argparse.Namespace) -> None:
    """Print the tables."""
    from mmtokmerge.merging.segformer.arch import read_arch
    from mmtokmerge.merging.segformer.cost_table import render

    if min(args.size) < 1:
        raise InputError(f"--size {args.size[0]} {args.size[1]}: both must be at least 1")
    print(render(read_arch(args.arch), (args.size[0], args.size[1])))
