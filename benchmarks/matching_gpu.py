"""Time the matching of tokens on a GPU: the Triton kernel against torch, eager and compiled."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from mmtokmerge.benchmark.kernel_rows import KernelRow, kernel_rows, save_kernel_rows
from mmtokmerge.benchmark.options import DTYPES
from mmtokmerge.errors import InputError
from mmtokmerge.kernels.gpu.operators import most_similar_triton
from mmtokmerge.kernels.gpu.switch import HAS_TRITON, SWITCH, pays
from mmtokmerge.kernels.similarity import most_similar
from mmtokmerge.measure.machine import describe_machine
from mmtokmerge.measure.timing import cuda_timer, interleave
from mmtokmerge.merging.segformer.arch import read_arch
from mmtokmerge.merging.segformer.presets import read_merging

EXAMPLES = """\
examples:
  python benchmarks/matching_gpu.py --json matching.json
  python benchmarks/matching_gpu.py --arch b5 --merging hq --shape 2160 3840 --dtype bf16 --graphs
  python benchmarks/matching_gpu.py --tokens 2048 2048 768 --tokens 65536 16384 64 --dtype fp16

Sizes are those that the config's stages compare at each image shape, or those of --tokens. Each
round times every way once, A B C A B C ...; times are milliseconds of one call by events, medians
over the rounds, on tokens that may still lie in the GPU's cache. 'auto' is what the setting
MMTOKMERGE_TRITON=auto takes. 'loss' is the most cosine that any token loses by the kernel's choice
against torch's.
"""
CALLS_OF_A_GRAPH = 20


@dataclass(frozen=True)
class Size:
    """One comparison: ``tokens (batch, tokens, channels)`` with ``targets`` destinations."""

    batch: int
    tokens: int
    targets: int
    channels: int
    dtype: str


@dataclass(frozen=True)
class Agreement:
    """How the kernel's results differ from torch's.

    Args:
        size: What was compared.
        auto: 'kernel' or 'torch', what ``MMTOKMERGE_TRITON=auto`` takes.
        loss: The most cosine, in fp64, that a token loses by the kernel's choice.
        difference: The largest difference of the returned cosines.
    """

    size: Size
    auto: str
    loss: float
    difference: float


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    add("--arch", default="b5", help="b0 to b5 (default: b5)")
    add("--merging", nargs="+", default=["hq", "fast"], help="presets (default: hq fast)")
    add(
        "--shape",
        nargs=2,
        type=int,
        action="append",
        metavar=("H", "W"),
        help="image in pixels; may be repeated (default: 1024 1024, 1024 2048 and 2160 3840)",
    )
    add(
        "--tokens",
        nargs=3,
        type=int,
        action="append",
        metavar=("N", "D", "C"),
        help="tokens, destinations and channels, instead of a config's; may be repeated",
    )
    add("--batch-size", nargs="+", type=int, default=[1, 8], help="images (default: 1 8)")
    add(
        "--dtype", nargs="+", default=["fp32", "bf16"], help="fp32, fp16, bf16 (default: fp32 bf16)"
    )
    add("--tf32", action="store_true", help="let fp32 products run in TF32, for both")
    add("--graphs", action="store_true", help="replay CUDA graphs: no launches from Python")
    add("--runs", type=int, default=30, help="interleaved rounds (default: 30)")
    add("--warmup", type=int, default=5, help="calls of each way before them (default: 5)")
    add("--json", type=Path, metavar="F", help="write machine, versions, every sample")
    return parser


def main(args: argparse.Namespace) -> None:
    """Check, time, print and save.

    Raises:
        InputError: If an argument is wrong, or there is no GPU or no Triton.
    """
    sizes = list(read_sizes(args))
    if not torch.cuda.is_available():
        raise InputError("matching_gpu.py times GPU kernels, but torch finds no CUDA device here.")
    if not HAS_TRITON:
        raise InputError("the kernel needs Triton, which is not installed: pip install triton.")
    os.environ[SWITCH] = "0"  # most_similar is torch's own here, whatever the person's setting
    torch.backends.cuda.matmul.allow_tf32 = args.tf32
    console = Console()
    rows: list[KernelRow] = []
    checks: list[Agreement] = []
    for size in sizes:
        x, targets = tokens_of(size)
        checks.append(compare(size, x, targets))
        rows += time_size(size, x, targets, args)
        console.print(f"{size}: " + ", ".join(f"{r.way} {r.median:.4f}" for r in rows[-3:]))
    console.print(table_of(rows, checks))
    if args.json is not None:
        settings = dict(graphs=args.graphs, tf32=args.tf32, runs=args.runs, warmup=args.warmup)
        agreement = [asdict(check) for check in checks]
        save_kernel_rows(args.json, rows, describe_machine("cuda"), settings, agreement=agreement)
        console.print(f"wrote {args.json}")


def read_sizes(args: argparse.Namespace) -> Iterator[Size]:
    """The sizes of the command line, each once.

    Raises:
        InputError: If a number is below 1, a name is unknown or nothing is compared.
    """
    for key in args.dtype:
        if key not in DTYPES:
            raise InputError(f"--dtype {key!r} is unknown, allowed are {', '.join(DTYPES)}.")
    shapes = args.shape or [(1024, 1024), (1024, 2048), (2160, 3840)]
    numbers = [args.runs, *args.batch_size, *(n for shape in shapes for n in shape)]
    numbers += [n for triple in args.tokens or () for n in triple]
    if min(numbers) < 1 or args.warmup < 0:
        raise InputError("sizes, --batch-size and --runs must be at least 1, --warmup at least 0.")
    if args.tokens:
        triples = [(n, d, c) for n, d, c in args.tokens]
    else:
        triples = [
            triple
            for name in args.merging
            for height, width in shapes
            for triple in stage_sizes(args.arch, name, height, width)
        ]
    if not triples:
        raise InputError(f"--merging {' '.join(args.merging)} compares no tokens: take hq or fast.")
    for dtype in args.dtype:
        for batch in args.batch_size:
            for n, d, c in dict.fromkeys(triples):
                yield Size(batch, n, d, c, dtype)


def stage_sizes(arch: str, merging: str, height: int, width: int) -> Iterator[tuple[int, int, int]]:
    """Tokens, destinations and channels of every matching by rate of an encoder."""
    mit = read_arch(arch)
    for index, (grid, stage) in enumerate(zip(mit.grids(height, width), read_merging(merging))):
        for matcher, hw in ((stage.q, grid), (stage.kv, mit.reduced(index, grid))):
            targets = matcher.num_destinations(hw) if matcher is not None else 0
            if targets:
                yield hw[0] * hw[1], targets, mit.channels[index]


def tokens_of(size: Size) -> tuple[Tensor, Tensor]:
    """Random tokens and destinations on the GPU."""
    generator = torch.Generator("cuda").manual_seed(0)
    dtype = DTYPES[size.dtype]
    x, targets = (
        torch.randn(size.batch, count, size.channels, device="cuda", generator=generator).to(dtype)
        for count in (size.tokens, size.targets)
    )
    return x, targets


def compare(size: Size, x: Tensor, targets: Tensor) -> Agreement:
    """Run both once and compare what they return."""
    cosine, index = most_similar_triton(x, targets)
    torch_cosine, torch_index = most_similar(x, targets)
    loss = _cosine(x, targets, torch_index) - _cosine(x, targets, index)
    chosen = pays(size.batch * size.tokens, size.targets, size.channels)
    difference = (cosine - torch_cosine).abs().max()
    return Agreement(size, "kernel" if chosen else "torch", float(loss.max()), float(difference))


def _cosine(x: Tensor, targets: Tensor, index: Tensor) -> Tensor:
    chosen = targets.gather(1, index[:, :, None].expand(-1, -1, x.shape[2]))  # (B, N, C)
    return torch.cosine_similarity(x.double(), chosen.double(), dim=-1)


def time_size(size: Size, x: Tensor, targets: Tensor, args: argparse.Namespace) -> list[KernelRow]:
    """Time the kernel, torch and compiled torch in turn."""
    torch.compiler.reset()  # else torch stops compiling after a few sizes
    compiled = torch.compile(most_similar, dynamic=False)
    ways: dict[str, Callable[..., Any]] = {
        "kernel": most_similar_triton,
        "torch": most_similar,
        "compiled": compiled,
    }
    steps = {}
    for name, way in ways.items():
        step = _step(way, x, targets)
        for _ in range(max(1, args.warmup)):  # compiles
            step()
        steps[name] = _graph(step) if args.graphs else step
    samples = interleave(steps, args.runs, cuda_timer)
    if args.graphs:
        samples = {name: [ms / CALLS_OF_A_GRAPH for ms in each] for name, each in samples.items()}
    return kernel_rows(size, samples)


def _step(way: Callable[..., Any], x: Tensor, targets: Tensor) -> Callable[[], Any]:
    @torch.no_grad()
    def step() -> Any:
        return way(x, targets)

    return step


def _graph(step: Callable[[], Any]) -> Callable[[], Any]:
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(CALLS_OF_A_GRAPH):
            step()
    graph.replay()
    return graph.replay


def table_of(rows: Sequence[KernelRow], checks: Sequence[Agreement]) -> Table:
    """One line for each size: medians, the kernel's speed-ups and whether it agrees."""
    table = Table(title="milliseconds of one call, medians", title_justify="left")
    heads = ("dtype", "batch", "tokens", "destinations", "channels", "kernel", "torch", "compiled")
    for head in (*heads, "over torch", "over compiled", "auto", "loss"):
        table.add_column(head, justify="right")
    medians = {(row.size, row.way): row.median for row in rows}
    for check in checks:
        size = check.size
        kernel, eager, compiled = (medians[size, way] for way in ("kernel", "torch", "compiled"))
        table.add_row(
            *map(str, (size.dtype, size.batch, size.tokens, size.targets, size.channels)),
            *(f"{ms:.4f}" for ms in (kernel, eager, compiled)),
            f"{eager / kernel:.2f}",
            f"{compiled / kernel:.2f}",
            check.auto,
            f"{check.loss:.1e}",
        )
    return table


if __name__ == "__main__":
    try:
        main(make_parser().parse_args())
    except InputError as error:
        sys.exit(f"error: {error}")
