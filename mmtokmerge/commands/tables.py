"""Write CSV files of the benchmark as Markdown tables between two markers of a page."""

from __future__ import annotations

import argparse
from pathlib import Path

from mmtokmerge.errors import InputError

EXAMPLES = """\
examples:
  mmtokmerge tables
  mmtokmerge tables --results work_dirs/results --out work_dirs/results/README.md
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.add_argument(
        "--results", type=Path, default=Path("benchmarks/results"), help="default: %(default)s"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("benchmarks/README.md"),
        help="file with the two markers (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> None:
    """Write the tables.

    Raises:
        InputError: There are no CSV files, or the page has no markers.
    """
    from mmtokmerge.benchmark.result_tables import make_tables, write_between_markers

    files = sorted(args.results.rglob("*.csv"))
    if not files:
        raise InputError(f"There are no CSV files in {args.results}.")
    changed = write_between_markers(args.out, make_tables(files))
    print(f"{args.out}: {'written' if changed else 'up to date'}, from {len(files)} files")
