"""Whether MixFFN may work on fewer tokens after a short fine-tuning: mIoU with intervals, latency.

    python benchmarks/mixffn_training.py train b0_camvid CHECKPOINT --iterations 600
    python benchmarks/mixffn_training.py compare b0_camvid --out benchmarks/quality/mixffn_training

`train` fine-tunes every trial from the same unmerged weights, with the same images and schedule; a
killed run resumes at its newest checkpoint, a finished trial is not trained again. `compare` tests
each and times whole models in turn; a difference is to `plus`, with its 95% interval (paired
bootstrap over images).
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from torch import Tensor, nn
from trials import folder_of, spread, test, train_or_compare, trial_runner

from mmtokmerge.commands.main import guard
from mmtokmerge.evaluation.intervals import paired_difference
from mmtokmerge.kernels.depthwise import depthwise_activation
from mmtokmerge.kernels.linear import linear
from mmtokmerge.kernels.norm import call_norm
from mmtokmerge.layers.attention import MergedGroups
from mmtokmerge.layers.layout import to_map, to_tokens
from mmtokmerge.measure.timing import interleave, wall_timer
from mmtokmerge.models.backbones.mit_plus_plus import MiTBlock
from mmtokmerge.models.weights.fit import load_weights
from mmtokmerge.reporting.files import write_bytes
from mmtokmerge.reporting.tables import csv_text, markdown_table


class MergedProducts(MiTBlock):
    """Both 1x1 convolutions on the queries' groups, the depthwise one on the full grid."""

    def forward(
        self, x: Tensor, hw: tuple[int, int], groups: MergedGroups | None = None
    ) -> tuple[Tensor, MergedGroups]:
        """As the block's."""
        y, groups = self.attn(call_norm(self.norm1, x), hw, groups=groups)
        x = x + self.drop_path(self.drop(y))
        fc1, depthwise, activation, drop1, fc2, drop2 = self.ffn.layers
        own = groups.q
        assert own is not None, "the block merges queries"
        hidden = own.merge(call_norm(self.norm2, x))
        hidden = own.unmerge(linear(hidden, fc1.weight.flatten(1), fc1.bias))
        hidden = own.merge(drop1(depthwise_activation(depthwise, activation, hidden, hw)))
        out = own.unmerge(linear(hidden, fc2.weight.flatten(1), fc2.bias))
        return x + self.drop_path(drop2(out)), groups


class HalfGrid(MiTBlock):
    """The whole block on 2x2 means of its tokens; what it adds is brought back bilinearly."""

    def forward(
        self, x: Tensor, hw: tuple[int, int], groups: MergedGroups | None = None
    ) -> tuple[Tensor, None]:
        """As the block's."""
        small = F.avg_pool2d(to_map(x, hw), 2, ceil_mode=True, count_include_pad=False)
        size = (small.shape[2], small.shape[3])
        y, _ = super().forward(to_tokens(small), size)
        added = F.interpolate(to_map(y, size) - small, hw, mode="bilinear")
        return x + to_tokens(added), None


class HalfSkipped(MiTBlock):
    """No MixFFN for the half of the tokens that attention changed least: a learned scale instead.

    What attention changed is multiplied by the scale, one number a channel, zero at first.
    """

    def forward(
        self, x: Tensor, hw: tuple[int, int], groups: MergedGroups | None = None
    ) -> tuple[Tensor, MergedGroups]:
        """As the block's."""
        y, groups = self.attn(call_norm(self.norm1, x), hw, groups=groups)
        x = x + self.drop_path(self.drop(y))
        most = y.norm(dim=2).topk(-(-y.shape[1] // 2), dim=1, sorted=False).indices[..., None]
        fc1, depthwise, activation, drop1, fc2, drop2 = self.ffn.layers
        chosen = call_norm(self.norm2, x).take_along_dim(most, 1)
        hidden = linear(chosen, fc1.weight.flatten(1), fc1.bias)
        where = most.expand(-1, -1, hidden.shape[2])
        hidden = hidden.new_zeros(*x.shape[:2], hidden.shape[2]).scatter(1, where, hidden)
        hidden = drop1(depthwise_activation(depthwise, activation, hidden, hw))
        hidden = hidden.take_along_dim(most, 1)
        update = linear(hidden, fc2.weight.flatten(1), fc2.bias)
        out = (y * self.scale).scatter(1, most.expand(-1, -1, x.shape[2]), update)
        return x + self.drop_path(drop2(out)), groups


ALL = ((0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1), (3, 0), (3, 1))
# name: merging, the changed block's class, (stage, block) counted from 0
TRIALS: dict[str, tuple[str, type[MiTBlock] | None, Sequence[tuple[int, int]]]] = {
    "plus": ("plus", None, ()),
    "none": ("none", None, ()),
    "products merged, stages 3-4": ("plus", MergedProducts, ALL[4:]),
    "second blocks on half grid": ("plus", HalfGrid, ALL[1::2]),
    "second blocks on half grid, stages 1-2": ("plus", HalfGrid, ALL[1:4:2]),
    "half of tokens skipped, stages 3-4": ("plus", HalfSkipped, ALL[4:]),
}
HEADS = (
    *("trial", "height", "width", "mIoU", "difference", "low", "high"),
    *("small", "small_difference", "small_low", "small_high", "iterations"),
    *("over_plus", "timed_height", "timed_width", "rounds", "threads", "torch"),
)


def change(backbone: Any, name: str) -> None:
    """Give the blocks of a trial their class."""
    _, kind, places = TRIALS[name]
    for stage, number in places:
        block = backbone.layers[stage][1][number]
        assert kind is not None and type(block) is MiTBlock, "a B0 of two blocks a stage"
        block.__class__ = kind
        if kind is HalfSkipped:
            block.scale = nn.Parameter(torch.zeros(block.norm1.weight.shape))


def runner_of(args: Namespace, name: str) -> Any:
    """A runner whose model is the trial's; it resumes where the trial was stopped."""
    config = f"{args.config}_{TRIALS[name][0]}"
    return trial_runner(config, folder_of(args.work_dirs, name), args.iterations, args.lr)


def train(args: Namespace) -> None:
    """Fine-tune each trial that is not finished."""
    for name in args.only or TRIALS:
        if (folder_of(args.work_dirs, name) / f"iter_{args.iterations}.pth").is_file():
            continue
        runner = runner_of(args, name)
        load_weights(runner.model, args.checkpoint)
        runner.model._is_init = True  # mmengine would draw the weights anew
        change(runner.model.backbone, name)
        runner.train()


@torch.no_grad()
def compare(args: Namespace) -> None:
    """Test and time each trial that is trained."""
    console, models, found = Console(), {}, {}
    for name in TRIALS:
        path = folder_of(args.work_dirs, name) / f"iter_{args.iterations}.pth"
        if not path.is_file():
            console.print(f"{name} is not trained, left out")
            continue
        runner = runner_of(args, name)
        change(runner.model.backbone, name)
        load_weights(runner.model, str(path))
        models[name] = runner.model.eval()
        found[name] = test(runner, name, console)
    if "plus" not in found:
        raise SystemExit("train 'plus' first: the others are compared with it")
    height, width = args.timed
    image = torch.randn(1, 3, height, width)
    steps = {
        name: lambda model=model: model(image, mode="tensor") for name, model in models.items()
    }
    interleave(steps, 2, wall_timer)
    times = interleave(steps, args.rounds, wall_timer)
    rows = []
    for name, metrics in found.items():
        row = {"trial": name, "height": 360, "width": 480, "iterations": args.iterations}
        for metric, head, prefix in (("mIoU", "mIoU", ""), ("mIoU_small", "small", "small_")):
            row[head] = f"{float(metrics[metric].value()):.2f}"
            if name == "plus":
                continue
            between = paired_difference(metric, metrics[metric], found["plus"][metric])
            row[f"{prefix}difference"] = f"{between.value:.2f}"
            row[f"{prefix}low"], row[f"{prefix}high"] = f"{between.low:.2f}", f"{between.high:.2f}"
        row["over_plus"] = f"{median(times['plus']) / median(times[name]):.3f}"
        row |= {"timed_height": height, "timed_width": width, "rounds": args.rounds}
        row |= {"threads": torch.get_num_threads(), "torch": torch.__version__}
        rows.append([str(row.get(head, "")) for head in HEADS])
    write_bytes(args.out.with_suffix(".csv"), csv_text(HEADS, rows).encode())
    shown = [[row[0], row[3], *(spread(row, at) for at in (4, 8)), row[12]] for row in rows]
    heads = ["trial", "mIoU", "difference", "mIoU_small's difference", "speed over plus"]
    title = f"{args.config}, fine-tuned for {args.iterations} iterations, timed at {height}x{width}"
    write_bytes(args.out.with_suffix(".md"), f"{markdown_table(heads, shown, title)}\n".encode())
    console.print(args.out.with_suffix(".md").read_text())


def add_arguments(part: ArgumentParser, verb: str) -> None:
    """Add the arguments of a verb."""
    part.add_argument("config", help="its name without the preset, such as b0_camvid")
    if verb == "train":
        part.add_argument("checkpoint", help="trained without merging")
        part.add_argument("--only", nargs="+", choices=TRIALS)
    else:
        part.add_argument("--timed", type=int, nargs=2, default=(1024, 1024))
        part.add_argument("--rounds", type=int, default=15)
    part.add_argument("--iterations", type=int, default=600)
    part.add_argument("--lr", type=float, default=3e-4)
    part.add_argument("--work-dirs", default="work_dirs/mixffn_training")


def main() -> None:
    """Parse the command line and run one of the two."""
    texts = ("fine-tune the trials", "test and time them")
    train_or_compare(__doc__, train, compare, add_arguments, texts)


if __name__ == "__main__":
    sys.exit(guard(main))
