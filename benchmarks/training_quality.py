"""What merging costs when a network is trained with it, beside merging put into a trained one.

    python benchmarks/training_quality.py train b0_camvid none hq plus --start WEIGHTS --seeds 3
    python benchmarks/training_quality.py compare b0_camvid none hq plus --seeds 3 --out PATH

`train` trains every preset of a config's family with every seed, from the same weights, on the same
images in the same order; a killed run resumes at its newest checkpoint, and a finished trial
is not trained again. `compare` tests each trial with the preset that it was trained with, and those
of the first preset with every other one. Differences are to the first preset with the same seed:
their mean over seeds with its standard deviation, and for each seed the 95% interval of a paired
bootstrap over images.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from rich.console import Console
from trials import folder_of, spread, test, train_or_compare, trial_runner

from mmtokmerge.commands.main import guard
from mmtokmerge.evaluation.intervals import Ratios, paired_difference
from mmtokmerge.models.weights.fit import load_weights
from mmtokmerge.models.weights.state_dicts import is_threshold
from mmtokmerge.reporting.files import write_bytes
from mmtokmerge.reporting.tables import csv_text, markdown_table

METRICS = ("mIoU", "mIoU_small")
HEADS = (
    *("trained", "tested", "seed", "iterations", "metric", "value"),
    *("difference", "low", "high", "torch"),
)


def runner_of(args: Namespace, trained: str, seed: int, tested: str | None = None) -> Any:
    """A runner of one trial, with the preset that it is tested with, its own where None."""
    folder = folder_of(args.work_dirs, f"{args.config} {trained} {seed}")
    settings: dict[str, Any] = {"randomness.seed": seed}
    if args.batch:
        settings["train_dataloader.batch_size"] = args.batch
    return trial_runner(
        f"{args.config}_{tested or trained}", folder, args.iterations, args.lr, args.amp, settings
    )


def checkpoint_of(args: Namespace, trained: str, seed: int) -> Path:
    """The last checkpoint of a trial."""
    folder = folder_of(args.work_dirs, f"{args.config} {trained} {seed}")
    return folder / f"iter_{args.iterations}.pth"


def train(args: Namespace) -> None:
    """Train each trial that is not finished: a seed with all presets, then the next seed."""
    for seed in range(args.seeds):
        for preset in args.presets:
            if checkpoint_of(args, preset, seed).is_file():
                continue
            runner = runner_of(args, preset, seed)
            if args.start:
                load_weights(runner.model, args.start, training=True)
                runner.model._is_init = True  # mmengine would draw the weights anew
            runner.train()


@torch.no_grad()
def compare(args: Namespace) -> None:
    """Test the trials that are trained, and write each seed's rows and the table of means."""
    console = Console()
    first = args.presets[0]
    pairs = [(preset, preset) for preset in args.presets]
    pairs += [(first, preset) for preset in args.presets[1:]]
    rows: list[list[str]] = []
    seeds = [
        seed
        for seed in range(args.seeds)
        if all(checkpoint_of(args, preset, seed).is_file() for preset in args.presets)
    ]
    if not seeds:
        raise SystemExit(f"no seed has all of {', '.join(args.presets)} trained: train them first")
    for seed in seeds:
        found: dict[tuple[str, str], dict[str, Ratios]] = {}
        for trained, tested in pairs:
            runner = runner_of(args, trained, seed, tested)
            if tested != trained:  # for thresholds that only its own checkpoint has
                load_weights(runner.model, str(checkpoint_of(args, tested, seed)))
            path = str(checkpoint_of(args, trained, seed))
            load_weights(runner.model, path, may_lack=is_threshold)
            runner.model.eval()
            found[trained, tested] = test(runner, f"{trained} as {tested}, {seed}", console)
            for metric in METRICS:
                own = found[trained, tested][metric]
                row = [trained, tested, str(seed), str(args.iterations), metric]
                row += [f"{float(own.value()):.2f}", "", "", "", torch.__version__]
                if (trained, tested) != (first, first):
                    between = paired_difference(metric, own, found[first, first][metric])
                    row[6:9] = (f"{x:.2f}" for x in (between.value, between.low, between.high))
                rows.append(row)
            write_bytes(args.out.with_suffix(".csv"), csv_text(HEADS, rows).encode())
    shown = [table_row(rows, trained, tested) for trained, tested in pairs]
    heads = ["trained with", "tested with"]
    for metric in METRICS:
        heads += [metric, "difference, mean ± sd", "each seed's interval"]
    title = f"{args.config}, {args.iterations} iterations, {len(seeds)} seeds"
    write_bytes(args.out.with_suffix(".md"), f"{markdown_table(heads, shown, title)}\n".encode())
    console.print(args.out.with_suffix(".md").read_text())


def table_row(rows: list[list[str]], trained: str, tested: str) -> list[str]:
    """A row of the table of means, from the rows of every seed."""
    cells = [trained, tested]
    for metric in METRICS:
        own = [row for row in rows if row[:2] == [trained, tested] and row[4] == metric]
        cells.append(with_deviation([float(row[5]) for row in own], ""))
        cells.append(with_deviation([float(row[6]) for row in own if row[6]], "+"))
        cells.append("; ".join(spread(row, 6) for row in own if row[6]))
    return cells


def with_deviation(values: list[float], sign: str) -> str:
    """A mean with its standard deviation over seeds, where there are two or more."""
    if not values:
        return ""
    text = f"{mean(values):{sign}.2f}"
    return f"{text} ± {stdev(values):.2f}" if len(values) > 1 else text


def add_arguments(part: ArgumentParser, verb: str) -> None:
    """Add the arguments of a verb."""
    part.add_argument("config", help="its name without the preset, such as b0_camvid")
    part.add_argument("presets", nargs="+", help="the first is what others are compared with")
    if verb == "train":
        part.add_argument("--start", help="weights to begin with; at random where left out")
    part.add_argument("--seeds", type=int, default=3, help="from 0 to this less 1")
    part.add_argument("--iterations", type=int, default=500)
    part.add_argument("--lr", type=float, default=6e-4)
    part.add_argument("--batch", type=int, help="images in a batch, the config's by default")
    part.add_argument("--amp", action="store_true", help="train under autocast")
    part.add_argument("--work-dirs", default="work_dirs/training_quality")


def main() -> None:
    """Parse the command line and run one of the two."""
    texts = ("train the trials", "test them")
    train_or_compare(__doc__, train, compare, add_arguments, texts)


if __name__ == "__main__":
    sys.exit(guard(main))
