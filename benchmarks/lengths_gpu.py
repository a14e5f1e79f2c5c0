"""Time the first and the later attentions of each new number of tokens, by the kernels allowed."""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from mmtokmerge.benchmark.options import DTYPES
from mmtokmerge.errors import InputError
from mmtokmerge.kernels.attention import attend, for_changing_lengths
from mmtokmerge.measure.machine import describe_machine
from mmtokmerge.reporting.files import write_json

EXAMPLES = """\
examples:
  python benchmarks/lengths_gpu.py --json lengths.json
  python benchmarks/lengths_gpu.py --heads 12 --lengths 400 1400 --dtype fp16

Merging by a threshold brings another number of tokens with every image. 'as torch chooses' lets all
of torch's kernels take part, 'for changing lengths' leaves out cuDNN's, which plans anew for each
length: that is what the models do where images decide. Each way meets lengths of its own, so that
neither finds the other's plans. Milliseconds by the clock, the device waited for: 'first' are
medians over the lengths of the first call, 'later' those of the fastest of the calls after it.
"""
WIDTH = 64


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    add("--device", default="cuda", choices=("cuda", "cpu"), help="(default: cuda)")
    add("--dtype", default="bf16", help="fp32, fp16 or bf16 (default: bf16)")
    add("--batch-size", type=int, default=1, help="images (default: 1)")
    add("--heads", type=int, default=6, help="heads of 64 channels (default: 6, ViT-S)")
    add(
        "--lengths",
        nargs=2,
        type=int,
        default=(300, 1100),
        metavar=("FROM", "TO"),
        help="tokens (default: 300 1100)",
    )
    add("--count", type=int, default=40, help="lengths of each way (default: 40)")
    add("--json", type=Path, metavar="F", help="write machine, versions, every sample")
    return parser


def main(args: argparse.Namespace) -> None:
    """Time, print and save.

    Raises:
        InputError: If an argument is wrong, or there is no GPU.
    """
    if args.dtype not in DTYPES:
        raise InputError(f"--dtype {args.dtype!r} is unknown, allowed are {', '.join(DTYPES)}.")
    low, high = args.lengths
    if min(low, args.count, args.batch_size, args.heads) < 1 or high - low < 2 * args.count:
        raise InputError("numbers must be at least 1 and --lengths hold twice --count lengths.")
    if args.device == "cuda" and not torch.cuda.is_available():
        raise InputError("lengths_gpu.py times GPU kernels, but torch finds no CUDA device here.")
    steps = torch.linspace(low, high, 2 * args.count).long().tolist()
    x = torch.empty(args.batch_size, args.heads, low, WIDTH, device=args.device)
    attend(x, x, x)  # what the very first call of all sets up
    ways = {
        "as torch chooses": (steps[::2], nullcontext()),
        "for changing lengths": (steps[1::2], for_changing_lengths(x)),
    }
    rows = []
    for name, (lengths, choice) in ways.items():
        with torch.no_grad(), choice:
            rows += [dict(way=name, **_time(length, args)) for length in lengths]
    console = Console()
    console.print(_table(rows))
    if args.json is not None:
        write_json(args.json, dict(machine=describe_machine(args.device), rows=rows))
        console.print(f"wrote {args.json}")


def _time(length: int, args: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds of the first call with this length and of the fastest of five after it."""
    shape = (args.batch_size, args.heads, length, WIDTH)
    q, k, v = (torch.randn(shape, device=args.device, dtype=DTYPES[args.dtype]) for _ in range(3))
    times = []
    for _ in range(6):
        if args.device == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        attend(q, k, v)
        if args.device == "cuda":
            torch.cuda.synchronize()
        times.append((time.perf_counter() - start) * 1000)
    return dict(length=length, first=times[0], later=min(times[1:]))


def _table(rows: Sequence[dict[str, Any]]) -> Table:
    table = Table(title="milliseconds, medians over the lengths", title_justify="left")
    for head in ("kernels", "first", "later"):
        table.add_column(head, justify="left" if head == "kernels" else "right")
    for way in dict.fromkeys(row["way"] for row in rows):
        own = [row for row in rows if row["way"] == way]
        medians = (statistics.median(row[key] for row in own) for key in ("first", "later"))
        table.add_row(way, *(f"{ms:.3f}" for ms in medians))
    return table


if __name__ == "__main__":
    try:
        main(make_parser().parse_args())
    except InputError as error:
        sys.exit(f"error: {error}")
