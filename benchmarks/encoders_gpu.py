"""Time encoders that get ready side by side, each in a process of its own, and then take turns."""

from __future__ import annotations

import argparse
import csv
import multiprocessing as mp
import os
import re
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from mmtokmerge.benchmark.options import DTYPES, Settings, Shape
from mmtokmerge.benchmark.report import print_tables, save_csv
from mmtokmerge.benchmark.result import Result, compare
from mmtokmerge.errors import InputError
from mmtokmerge.measure.machine import describe_machine
from mmtokmerge.merging.segformer.arch import MIT_ARCHS
from mmtokmerge.merging.segformer.presets import PRESETS
from mmtokmerge.reporting.files import write_bytes
from mmtokmerge.reporting.tables import csv_text

EXAMPLES = """\
examples:
  python benchmarks/encoders_gpu.py --csv encoders.csv
  python benchmarks/encoders_gpu.py --size b5:1x2160x3840 --mode graph compile-graph
  python benchmarks/encoders_gpu.py --size 8x1024x1024 b5:1x2160x3840:graph,eager

Compiling B5 takes a minute or more for each model and size, one after the other in
tools/benchmark.py. Here every model and size has a process, all compile at once, and when the last
one is ready they take turns, A B C A B C ..., one at a time, so that a slow moment of the machine
meets all of them.
A process that is not ready after --deadline seconds is left out, and its row says so.

modes: eager, one launch after the other; graph, replayed as one CUDA graph; compile, torch.compile
for the size; compile-graph, what torch.compile made replayed as one CUDA graph.
"""
STOCK = "stock fused"
SIZE = re.compile(
    r"((?P<arch>b\d):)?(?P<batch>\d+)x(?P<height>\d+)x(?P<width>\d+)(:(?P<modes>[a-z,-]+))?"
)
MODES = {
    "eager": {},
    "graph": dict(cuda_graph=True),
    "compile": dict(compile=True),
    "compile-graph": dict(compile=True, cuda_graph=True),
}
STEPS_BEFORE = 2  # of a turn, untimed: another process held the GPU


@dataclass(frozen=True)
class Job:
    """One model at one size, in every mode.

    Args:
        arch: 'b0' to 'b5'.
        merging: A preset, or 'stock fused'.
        batch: Images of a step.
        shape: Image ``(H, W)``.
        dtype: 'fp32', 'fp16' or 'bf16'.
        device: 'cuda', or 'cpu' for a trial.
        modes: Keys of :data:`MODES`.
        warmup: Steps of each mode before its turn comes.
    """

    arch: str
    merging: str
    batch: int
    shape: Shape
    dtype: str
    device: str
    modes: tuple[str, ...]
    warmup: int

    def settings(self, mode: str, runs: int = 1) -> Settings:
        """The benchmark's settings for one mode."""
        return Settings(
            shapes=(self.shape,),
            batch_size=self.batch,
            dtype=self.dtype,
            device=self.device,
            part="encoder",
            runs=runs,
            warmup=self.warmup,
            **MODES[mode],
        )


@dataclass
class Worker:
    """A job's process and what has come of it."""

    job: Job
    process: Any
    pipe: Connection
    results: dict[str, Result]
    ready: bool = False


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    add("--arch", nargs="+", default=["b0", "b5"], help="b0 to b5 (default: b0 b5)")
    add("--merging", nargs="+", default=list(PRESETS), help="presets (default: all)")
    add(
        "--size",
        nargs="+",
        default=["8x1024x1024", "1x1024x1024"],
        metavar="[ARCH:]BxHxW[:MODE,...]",
        help="images of a step and their pixels, for one arch or those of --arch, in modes of its\n"
        "own or those of --mode (default: 8x1024x1024 1x1024x1024)",
    )
    add("--mode", nargs="+", default=["graph", "compile", "compile-graph"], help="see below")
    add("--dtype", default="bf16", help="fp32, fp16 or bf16 (default: bf16)")
    add("--device", default="cuda", choices=("cuda", "cpu"), help="(default: cuda)")
    add("--rounds", type=int, default=10, help="turns of each model (default: 10)")
    add("--steps", type=int, default=3, help="timed steps of a turn (default: 3)")
    add("--warmup", type=int, default=3, help="steps before the turns (default: 3)")
    add("--deadline", type=float, default=420, help="seconds to get ready (default: 420)")
    add("--processes", type=int, default=16, help="that get ready at once (default: 16)")
    add("--csv", type=Path, metavar="F", help="one row for each model, size and mode")
    return parser


def main(args: argparse.Namespace) -> None:
    """Get ready, time, print and save.

    Raises:
        InputError: If an argument is wrong.
    """
    jobs = list(read_jobs(args))
    if args.device == "cuda" and not torch.cuda.is_available():
        raise InputError("encoders_gpu.py times a GPU, but torch finds no CUDA device here.")
    console = Console()
    context = mp.get_context("spawn")
    with ExitStack() as stack:
        gate, alone = context.Semaphore(args.processes), context.Lock()
        workers = [_start(context, job, gate, alone, stack) for job in jobs]
        _wait_until_ready(workers, args.deadline, console)
        written: list[dict[str, str]] = []
        for group in _groups(workers):
            job = group[0].job
            for mode in job.modes:
                _take_turns(group, mode, args.rounds, args.steps)
                results = [worker.results[mode] for worker in group]
                compare(results)
                settings = job.settings(mode, args.rounds * args.steps)
                console.print(f"{job.arch}, batch {job.batch}")
                print_tables(results, settings, console)
                if args.csv is not None:
                    written += _rows(args.csv, results, settings, job)
                    _save(args.csv, written)


def read_jobs(args: argparse.Namespace) -> Iterator[Job]:
    """The jobs of the command line, in its order.

    Raises:
        InputError: If a name is unknown, a size is not BxHxW, or a number is below 1.
    """
    for name in ("rounds", "steps", "warmup", "processes"):
        if getattr(args, name) < 1:
            raise InputError(f"--{name} {getattr(args, name)} must be at least 1.")
    for name, given, allowed in (
        ("arch", args.arch, tuple(MIT_ARCHS)),
        ("merging", args.merging, tuple(PRESETS)),
        ("mode", args.mode, tuple(MODES)),
        ("dtype", [args.dtype], tuple(DTYPES)),
    ):
        for word in given:
            _among(f"--{name}", word, allowed)
    for size in args.size:
        found = SIZE.fullmatch(size)
        if found is None:
            raise InputError(
                f"--size {size!r} must be [ARCH:]BxHxW[:MODE,...], such as 8x1024x1024 or "
                "b5:1x2160x3840:graph."
            )
        batch, height, width = (int(found[name]) for name in ("batch", "height", "width"))
        modes = tuple(found["modes"].split(",")) if found["modes"] else tuple(args.mode)
        for arch in [found["arch"]] if found["arch"] else args.arch:
            _among("--size: arch", arch, tuple(MIT_ARCHS))
            for mode in modes:
                _among("--size: mode", mode, tuple(MODES))
            for merging in (STOCK, *args.merging):
                yield Job(
                    arch,
                    merging,
                    batch,
                    (height, width),
                    args.dtype,
                    args.device,
                    modes,
                    args.warmup,
                )


def _among(name: str, word: str, allowed: Sequence[str]) -> None:
    if word not in allowed:
        raise InputError(f"{name} {word!r} is unknown, allowed are {', '.join(allowed)}.")


def _start(context: Any, job: Job, gate: Any, alone: Any, stack: ExitStack) -> Worker:
    ours, theirs = context.Pipe()
    process = context.Process(target=work, args=(job, theirs, gate, alone), daemon=True)
    process.start()
    stack.callback(process.kill)
    name = job.merging if job.merging == STOCK else f"{job.arch}_{job.merging}"
    results = {mode: Result(job.shape, name, job.merging == STOCK) for mode in job.modes}
    return Worker(job, process, ours, results)


def _wait_until_ready(workers: Sequence[Worker], seconds: float, console: Console) -> None:
    start = time.monotonic()
    waiting: dict[Any, Worker] = {worker.pipe: worker for worker in workers}
    while waiting and (left := start + seconds - time.monotonic()) > 0:
        for pipe in wait(list(waiting), timeout=left):
            worker = waiting[pipe]
            try:
                mode, content = pipe.recv()
            except EOFError:
                mode, content = "", "the process ended"
            took = time.monotonic() - start
            job = worker.job
            what = f"{job.arch} {job.merging} {job.batch}x{job.shape[0]}x{job.shape[1]} {mode}"
            if isinstance(content, Result):
                content.is_baseline, content.name = job.merging == STOCK, worker.results[mode].name
                worker.results[mode] = content
                worker.ready = mode == job.modes[-1]
                console.print(f"{took:6.1f} s  {what} is ready")
            else:
                console.print(f"{took:6.1f} s  {what}: {content}")
                for result in worker.results.values():
                    result.note = result.note or content.strip().splitlines()[-1]
            if worker.ready or not isinstance(content, Result):
                del waiting[pipe]
    for worker in waiting.values():
        worker.process.kill()
        for result in worker.results.values():
            result.note = f"not ready after {seconds:.0f} s"
        console.print(f"not ready: {worker.job}")


def _groups(workers: Sequence[Worker]) -> list[list[Worker]]:
    """The workers that are compared, those of an arch, a size and its modes."""
    found: dict[tuple[Any, ...], list[Worker]] = {}
    for worker in workers:
        job = worker.job
        found.setdefault((job.arch, job.batch, job.shape, job.modes), []).append(worker)
    return list(found.values())


def _take_turns(group: Sequence[Worker], mode: str, rounds: int, steps: int) -> None:
    for _ in range(rounds):
        for worker in group:
            if not worker.ready:
                continue
            try:
                worker.pipe.send((mode, steps))
                worker.results[mode].samples += worker.pipe.recv()
            except (EOFError, BrokenPipeError):  # as where memory gave out
                worker.ready = False
                for result in worker.results.values():
                    result.samples, result.note = [], "the process ended in its turn"


def work(job: Job, pipe: Connection, gate: Any, alone: Any) -> None:
    """Get a job ready, tell so for each mode, and time steps when asked."""
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
    try:
        with gate:
            steps, timer = _ready(job, pipe, alone)
    except Exception:  # whatever torch's compiler or the driver raises is told
        pipe.send(("", traceback.format_exc()))
        return
    with torch.no_grad():
        while True:
            try:
                mode, count = pipe.recv()
            except EOFError:
                return
            for _ in range(STEPS_BEFORE):
                timer(steps[mode])
            pipe.send([timer(steps[mode]) for _ in range(count)])


def _ready(job: Job, pipe: Connection, alone: Any) -> tuple[dict[str, Any], Any]:
    from mmtokmerge.benchmark.candidates import build_candidates
    from mmtokmerge.benchmark.run import count, device_timer, torch_settings, warm_up
    from mmtokmerge.benchmark.steps import make_step, random_images
    from mmtokmerge.engine.launch import load_config

    stock = job.merging == STOCK
    path = f"configs/segformerpp/{job.arch}_cityscapes_{'none' if stock else job.merging}.py"
    config = load_config(path, None)
    ExitStack().enter_context(torch_settings(job.settings("eager")))  # until the process ends
    torch.set_num_threads(1)
    candidate = build_candidates([(path, config)], [STOCK] if stock else [], job.settings("eager"))[
        0
    ]
    timer = device_timer(job.settings("eager"))
    images = random_images(candidate, job.settings("eager"), job.shape, job.batch)
    eager = make_step(candidate, job.settings("eager"), images)
    torch.backends.cudnn.benchmark = False
    timer(eager)  # compiles and checks the kernels
    torch.backends.cudnn.benchmark = True
    with alone:  # cuDNN compares its convolutions by their time
        timer(eager)
    steps = {}
    for mode in job.modes:
        settings = job.settings(mode)
        steps[mode] = make_step(candidate, settings, images)
        result = Result(job.shape, "", stock, job.batch)
        count(result, candidate, settings, images)
        warm_up(result, candidate, steps[mode], settings, timer)
        pipe.send((mode, result))
    return steps, timer


def _rows(path: Path, results: Sequence[Result], settings: Settings, job: Job) -> list[Any]:
    part = path.with_suffix(".part")
    save_csv(part, results, settings, describe_machine(job.device))
    with part.open(encoding="utf-8", newline="") as file:
        rows = [dict(row, arch=job.arch) for row in csv.DictReader(file)]
    part.unlink()
    return rows


def _save(path: Path, rows: Sequence[dict[str, str]]) -> None:
    heads = list(dict.fromkeys(head for row in rows for head in row))
    text = csv_text(heads, [[row.get(head, "") for head in heads] for row in rows])
    write_bytes(path, text.encode())


if __name__ == "__main__":
    try:
        main(make_parser().parse_args())
    except InputError as error:
        sys.exit(f"error: {error}")
