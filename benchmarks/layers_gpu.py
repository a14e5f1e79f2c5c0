"""Time a layer's kernels on a GPU: norms and depthwise convolutions by Triton and by torch."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import nn

from mmtokmerge.benchmark.kernel_rows import KernelRow, kernel_rows, save_kernel_rows
from mmtokmerge.benchmark.options import DTYPES
from mmtokmerge.benchmark.steps import capture
from mmtokmerge.errors import InputError
from mmtokmerge.kernels.gpu.layer_operators import depthwise_rows, norm_rows
from mmtokmerge.kernels.gpu.switch import HAS_TRITON
from mmtokmerge.measure.machine import describe_machine
from mmtokmerge.measure.timing import cuda_timer, interleave
from mmtokmerge.merging.segformer.arch import MIT_ARCHS, read_arch

EXAMPLES = """\
examples:
  python benchmarks/layers_gpu.py --json layers.json
  python benchmarks/layers_gpu.py --arch b0 --shape 2160 3840 --batch-size 1 --compile

The sizes are those of an encoder's stages: the norms of its tokens, and the 3x3 depthwise
convolution of its MixFFN with bias and GELU. 'copy' reads and writes the same numbers once, which
no kernel can be faster than. Each round replays every way once, as a CUDA graph of 10 calls;
milliseconds of one call, medians over the rounds, on numbers that may still lie in the GPU's cache.
"""
CALLS = 10


@dataclass(frozen=True)
class Size:
    """What is timed: 'norm' or 'convolution' of ``(batch, h * w, channels)``."""

    layer: str
    batch: int
    hw: tuple[int, int]
    channels: int
    dtype: str


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    add("--arch", default="b5", choices=tuple(MIT_ARCHS), help="(default: b5)")
    add("--shape", nargs=2, type=int, default=(1024, 1024), metavar=("H", "W"), help="pixels")
    add("--batch-size", nargs="+", type=int, default=[1, 8], help="images (default: 1 8)")
    add("--dtype", default="bf16", choices=tuple(DTYPES), help="(default: bf16)")
    add("--compile", action="store_true", help="torch.compile's kernels too")
    add("--runs", type=int, default=20, help="interleaved rounds (default: 20)")
    add("--json", type=Path, metavar="F", help="write machine, versions, every sample")
    return parser


def main(args: argparse.Namespace) -> None:
    """Time, print and save.

    Raises:
        InputError: If a number is wrong, or there is no GPU or no Triton.
    """
    if min(args.runs, *args.batch_size, *args.shape) < 1:
        raise InputError("--shape, --batch-size and --runs must be at least 1.")
    if not torch.cuda.is_available():
        raise InputError("layers_gpu.py times GPU kernels, but torch finds no CUDA device here.")
    if not HAS_TRITON:
        raise InputError("the kernels need Triton, which is not installed: pip install triton.")
    torch.backends.cudnn.benchmark = True
    arch, rows = read_arch(args.arch), []
    for batch in args.batch_size:
        for hw, channels in zip(arch.grids(*args.shape), arch.channels):
            rows += _time(Size("norm", batch, hw, channels, args.dtype), args)
            hidden = arch.mlp_ratio * channels
            rows += _time(Size("convolution", batch, hw, hidden, args.dtype), args)
    console = Console()
    console.print(_table(rows))
    if args.json is not None:
        settings = dict(runs=args.runs, calls=CALLS)
        save_kernel_rows(args.json, rows, describe_machine("cuda"), settings)
        console.print(f"wrote {args.json}")


@torch.no_grad()
def _time(size: Size, args: argparse.Namespace) -> list[KernelRow]:
    ways = _ways(size)
    if args.compile:
        torch.compiler.reset()
        ways["compiled"] = torch.compile(ways["torch"], dynamic=False)
    steps = {name: capture(_several(way)) for name, way in ways.items()}
    samples = interleave(steps, args.runs, cuda_timer)
    return kernel_rows(size, {key: [ms / CALLS for ms in each] for key, each in samples.items()})


def _ways(size: Size) -> dict[str, Callable[[], Any]]:
    dtype, channels = DTYPES[size.dtype], size.channels
    generator = torch.Generator("cuda").manual_seed(0)
    shape = (size.batch, size.hw[0] * size.hw[1], channels)
    x = torch.randn(shape, device="cuda", generator=generator).to(dtype)
    if size.layer == "norm":
        weight, bias = torch.ones(2, channels, device="cuda", dtype=dtype)
        return {
            "kernel": lambda: norm_rows(x, weight, bias, 1e-6),
            "torch": lambda: F.layer_norm(x, (channels,), weight, bias, 1e-6),
            "copy": x.clone,
        }
    conv = nn.Conv2d(channels, channels, 3, padding=1, groups=channels).to("cuda", dtype)
    grid = x.unflatten(1, size.hw).permute(0, 3, 1, 2)
    return {
        "kernel": lambda: depthwise_rows(x, conv.weight, conv.bias, size.hw, True),
        "torch": lambda: F.gelu(conv(grid)),
        "copy": x.clone,
    }


def _several(way: Callable[[], Any]) -> Callable[[], Any]:
    @torch.no_grad()
    def step() -> Any:
        for _ in range(CALLS):
            result = way()
        return result

    return step


def _table(rows: Sequence[KernelRow]) -> Table:
    ways = list(dict.fromkeys(row.way for row in rows))
    table = Table(title="milliseconds of one call, medians", title_justify="left")
    for head in ("layer", "batch", "grid", "channels", *ways, "over torch"):
        table.add_column(head, justify="right")
    medians = {(row.size, row.way): row.median for row in rows}
    for size in dict.fromkeys(row.size for row in rows):
        gain = medians[size, "torch"] / medians[size, "kernel"]
        words = (size.layer, size.batch, f"{size.hw[0]}x{size.hw[1]}", size.channels)
        times = (f"{medians[size, way]:.4f}" for way in ways)
        table.add_row(*map(str, words), *times, f"{gain:.2f}")
    return table


if __name__ == "__main__":
    try:
        main(make_parser().parse_args())
    except InputError as error:
        sys.exit(f"error: {error}")
