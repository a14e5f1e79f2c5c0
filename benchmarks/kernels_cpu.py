"""What a CPU's products and attention reach: torch's own kernels against those by oneDNN.

    python benchmarks/kernels_cpu.py --threads 2 --out benchmarks/kernels/cpu

Those by oneDNN are taken on every processor here; models take them on AMD's alone, which is what
these tables decide (:mod:`mmtokmerge.kernels.processor`). Shapes are those of MiT-B2 at 1024x1024,
unmerged and merged, and of attention in B0 and in larger images. Both ways take turns; each value
is fp32 operations a second (1 MAC = 2) of a call's median time, on operands that may lie in the
cache.
Writes OUT.csv, and OUT.md with the machine and versions.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.console import Console

from mmtokmerge.commands.main import guard
from mmtokmerge.errors import InputError
from mmtokmerge.kernels import linear as linear_kernel
from mmtokmerge.kernels.linear import linear
from mmtokmerge.layers import attend
from mmtokmerge.measure.machine import describe_machine
from mmtokmerge.measure.timing import interleave, summarise, wall_timer
from mmtokmerge.reporting.files import write_bytes
from mmtokmerge.reporting.tables import csv_text, markdown_table, rich_table

PRODUCTS = [
    (65536, 64, 64),
    (4608, 64, 256),
    (4096, 256, 64),
    (2304, 128, 512),
    (4096, 320, 320),
    (896, 320, 1280),
    (768, 1280, 320),
    (1024, 512, 2048),
]  # tokens, channels, columns
ATTENTION = [
    (65536, 1024, 1, 64),
    (16384, 1024, 2, 64),
    (4096, 1024, 5, 64),
    (1024, 1024, 8, 64),
    (65536, 410, 1, 64),
    (65536, 103, 1, 64),
    (820, 1024, 5, 64),
    (410, 1024, 5, 64),
    (65536, 1024, 1, 32),
    (16384, 2048, 1, 32),
    (16384, 8160, 1, 32),
    (16384, 8160, 1, 64),
]  # queries, keys, heads, channels of a head
HEADS = ["what", "shape", "torch, GFLOP/s", "ours, GFLOP/s", "ratio"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2, help="of torch")
    parser.add_argument("--runs", type=int, default=31, help="calls of each way")
    parser.add_argument("--out", type=Path, help="OUT.csv and OUT.md are written")
    args = parser.parse_args()
    for name in ("threads", "runs"):
        if getattr(args, name) < 1:
            raise InputError(f"--{name} must be at least 1, got {getattr(args, name)}")
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    linear_kernel.products_are_slow = lambda: True
    with torch.no_grad():
        rows = [product(*shape, args.runs) for shape in PRODUCTS]
        rows += [attention(*shape, args.runs) for shape in ATTENTION]
    facts = describe_machine("cpu")
    title = f"fp32, {facts['threads']} threads, {facts['cpu']}, torch {facts['torch']}"
    Console(width=100).print(rich_table(HEADS, rows, title))
    if args.out is not None:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(args.out.with_suffix(".csv"), csv_text(HEADS, rows).encode())
        write_bytes(args.out.with_suffix(".md"), markdown_table(HEADS, rows, title).encode())


def product(tokens: int, channels: int, columns: int, runs: int) -> list[str]:
    x, weight, bias = (
        torch.randn(s) for s in ((tokens, channels), (columns, channels), (columns,))
    )
    return compare(
        "product",
        f"{tokens} x {channels} x {columns}",
        2 * tokens * channels * columns,
        lambda: F.linear(x, weight, bias),
        lambda: linear(x, weight, bias),
        runs,
    )


def attention(queries: int, keys: int, heads: int, width: int, runs: int) -> list[str]:
    q, k, v = (torch.randn(1, n, heads, width).transpose(1, 2) for n in (queries, keys, keys))
    return compare(
        "attention",
        f"{queries} x {keys}, {heads} x {width}",
        4 * queries * keys * heads * width,
        lambda: F.scaled_dot_product_attention(q, k, v),
        lambda: attend(q, k, v),
        runs,
    )


def compare(
    what: str,
    shape: str,
    operations: int,
    theirs: Callable[[], object],
    ours: Callable[[], object],
    runs: int,
) -> list[str]:
    """One row: operations a second of both ways."""
    steps = {"torch": theirs, "ours": ours}
    interleave(steps, 3, wall_timer)
    samples = interleave(steps, runs, wall_timer)
    torchs, own = (operations / summarise(samples[way]).median / 1e6 for way in steps)
    return [what, shape, f"{torchs:.0f}", f"{own:.0f}", f"{own / torchs:.2f}"]


if __name__ == "__main__":
    sys.exit(guard(main))
