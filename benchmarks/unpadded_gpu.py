"""Time attention of images with different numbers of tokens: padded with a bias, and unpadded."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from mmtokmerge.benchmark.kernel_rows import KernelRow, kernel_rows, save_kernel_rows
from mmtokmerge.benchmark.options import DTYPES
from mmtokmerge.errors import InputError
from mmtokmerge.kernels.unpadded import find_kernel
from mmtokmerge.layers import attend, attend_unpadded
from mmtokmerge.measure.machine import describe_machine
from mmtokmerge.measure.timing import cuda_timer, interleave

EXAMPLES = """\
examples:
  python benchmarks/unpadded_gpu.py --json unpadded.json
  python benchmarks/unpadded_gpu.py --arch l --batch-size 32 --tokens 1600 --least 0.5 --dtype bf16

The images of a batch have from --least to 1 of the tokens, in equal steps. 'bias' hides the padding
as unpadded_attention=False does, the making of the bias included; 'unpadded' is
unpadded_attention=True; 'full' attends among all rows, padding included: it is no alternative, but
says what the bias costs. Each round times every way once, A B C A B C ...; times are milliseconds
of one call by events, medians over the rounds. 'difference' is the largest between unpadded and
the bias, over rows that are not padding.
"""
WAYS = ("bias", "unpadded", "full")
HEADS = {"t": 3, "s": 6, "b": 12, "l": 16}  # of the ViTs
WIDTH = 64  # of each head


@dataclass(frozen=True)
class Size:
    """One attention: ``(batch, heads, tokens, width)``, the images with ``least`` to 1 of them."""

    arch: str
    batch: int
    heads: int
    tokens: int
    width: int
    least: float
    dtype: str

    @property
    def lengths(self) -> list[int]:
        """How many tokens each image has, the most first."""
        steps = [index / max(1, self.batch - 1) for index in range(self.batch)]
        return [max(1, round(self.tokens * (1 - (1 - self.least) * step))) for step in steps]


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    add("--arch", nargs="+", default=["s", "b"], help="t, s, b, l (default: s b)")
    add("--batch-size", nargs="+", type=int, default=[8, 32], help="images (default: 8 32)")
    add("--tokens", type=int, default=1024, help="of the image with the most (default: 1024)")
    add(
        "--least", type=float, default=0.3, help="that the image with the fewest has (default: 0.3)"
    )
    add("--dtype", nargs="+", default=["fp16", "bf16"], help="fp16, bf16 (default: both)")
    add("--runs", type=int, default=30, help="interleaved rounds (default: 30)")
    add("--warmup", type=int, default=5, help="calls of each way before them (default: 5)")
    add("--json", type=Path, metavar="F", help="write machine, versions, every sample")
    return parser


@torch.no_grad()
def main(args: argparse.Namespace) -> None:
    """Check, time, print and save.

    Raises:
        InputError: If an argument is wrong, or there is no GPU or no kernel for it.
    """
    sizes = list(read_sizes(args))
    if not torch.cuda.is_available():
        raise InputError("unpadded_gpu.py times GPU kernels, but torch finds no CUDA device here.")
    console = Console()
    rows: list[KernelRow] = []
    differences: dict[Size, float] = {}
    for size in sizes:
        q, k, v = heads_of(size)
        if find_kernel(q, k, v) is None:
            raise InputError(
                f"torch {torch.__version__} has no variable-length flash attention that takes "
                f"lengths on {torch.cuda.get_device_name()}: unpadded attention would run the "
                "images one after the other."
            )
        lengths = torch.tensor(size.lengths, dtype=torch.int32, device="cuda")
        differences[size] = compare(q, k, v, lengths)
        rows += time_size(size, q, k, v, lengths, args)
        console.print(f"{size}: " + ", ".join(f"{r.way} {r.median:.4f}" for r in rows[-3:]))
    console.print(table_of(rows, differences))
    if args.json is not None:
        settings = dict(runs=args.runs, warmup=args.warmup)
        most = [dict(size=asdict(size), most=value) for size, value in differences.items()]
        save_kernel_rows(args.json, rows, describe_machine("cuda"), settings, differences=most)
        console.print(f"wrote {args.json}")


def read_sizes(args: argparse.Namespace) -> Iterator[Size]:
    """The sizes of the command line.

    Raises:
        InputError: If a number is out of range or a name is unknown.
    """
    for key in args.dtype:
        if key not in ("fp16", "bf16"):
            raise InputError(f"--dtype {key!r} is unknown, allowed are fp16 and bf16.")
    for key in args.arch:
        if key not in HEADS:
            raise InputError(f"--arch {key!r} is unknown, allowed are {', '.join(HEADS)}.")
    if min(args.runs, args.tokens, *args.batch_size) < 1 or args.warmup < 0:
        raise InputError(
            "--tokens, --batch-size and --runs must be at least 1, --warmup at least 0."
        )
    if not 0 < args.least <= 1:
        raise InputError(f"--least must be above 0 and at most 1, got {args.least:g}.")
    for dtype in args.dtype:
        for arch in args.arch:
            for batch in args.batch_size:
                yield Size(arch, batch, HEADS[arch], args.tokens, WIDTH, args.least, dtype)


def heads_of(size: Size) -> tuple[Tensor, ...]:
    """Random queries, keys and values on the GPU, views of one product as in the ViT."""
    generator = torch.Generator("cuda").manual_seed(0)
    shape = (size.batch, size.tokens, 3, size.heads, size.width)
    rows = torch.randn(shape, device="cuda", generator=generator).to(DTYPES[size.dtype])
    return rows.permute(2, 0, 3, 1, 4).unbind(0)


def attend_padded(q: Tensor, k: Tensor, v: Tensor, lengths: Tensor) -> Tensor:
    """Attention with a bias that hides the padding, as the ViT does by default."""
    present = torch.arange(k.shape[2], device=k.device) < lengths[:, None]  # (B, M)
    return attend(q, k, v, present.float().log().to(q.dtype)[:, None, None])


def compare(q: Tensor, k: Tensor, v: Tensor, lengths: Tensor) -> float:
    """The largest difference between the two, over rows that are not padding."""
    difference = (attend_unpadded(q, k, v, lengths) - attend_padded(q, k, v, lengths)).abs()
    padding = torch.arange(q.shape[2], device=q.device) >= lengths[:, None]  # (B, N)
    return float(difference.masked_fill(padding[:, None, :, None], 0).max())


def time_size(
    size: Size, q: Tensor, k: Tensor, v: Tensor, lengths: Tensor, args: argparse.Namespace
) -> list[KernelRow]:
    """Time the three ways in turn."""
    steps: dict[str, Callable[[], Tensor]] = {
        "bias": lambda: attend_padded(q, k, v, lengths),
        "unpadded": lambda: attend_unpadded(q, k, v, lengths),
        "full": lambda: attend(q, k, v),
    }
    for step in steps.values():
        for _ in range(args.warmup):
            step()
    samples = interleave(steps, args.runs, cuda_timer)
    return kernel_rows(size, samples)


def table_of(rows: Sequence[KernelRow], differences: dict[Size, float]) -> Table:
    """One line for each size: medians, the speed-up over the bias and how far results differ."""
    table = Table(title="milliseconds of one call, medians", title_justify="left")
    heads = ("dtype", "ViT", "batch", "heads", "tokens", "width", *WAYS)
    for head in (*heads, "over bias", "difference"):
        table.add_column(head, justify="right")
    medians = {(row.size, row.way): row.median for row in rows}
    for size, difference in differences.items():
        bias, unpadded, full = (medians[size, way] for way in WAYS)
        table.add_row(
            *map(str, (size.dtype, size.arch, size.batch, size.heads, size.tokens, size.width)),
            *(f"{ms:.4f}" for ms in (bias, unpadded, full)),
            f"{bias / unpadded:.2f}",
            f"{difference:.1e}",
        )
    return table


if __name__ == "__main__":
    try:
        main(make_parser().parse_args())
    except InputError as error:
        sys.exit(f"error: {error}")
