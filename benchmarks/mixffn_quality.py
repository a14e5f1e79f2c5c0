"""What merging inside of MixFFN would cost in mIoU: trials that the models do not offer.

    python benchmarks/mixffn_quality.py configs/segformerpp/b0_camvid_plus.py CHECKPOINT \
        --shape 360 480 --out benchmarks/quality/mixffn_b0_camvid

With all else merged as the config says, MixFFN works with the groups of its block's queries: its
first or second 1x1 convolution is given merged tokens, or tokens that the attention changed little
get no update at all. Nothing is retrained, and nothing is faster here: only quality is measured.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.evaluator import Evaluator
from rich.console import Console
from torch import Tensor

from mmtokmerge.analysis.rates.model import load_mit
from mmtokmerge.analysis.rates.run import resize_test
from mmtokmerge.commands.main import guard
from mmtokmerge.engine.loading import read_config
from mmtokmerge.layers.layout import to_map, to_tokens
from mmtokmerge.measure.samples import Samples
from mmtokmerge.reporting.console import progress_bar
from mmtokmerge.reporting.files import write_bytes
from mmtokmerge.reporting.tables import markdown_table

Change = Callable[[Any, Tensor, tuple[int, int], Any, Tensor], Tensor]


def first_on_merged(ffn: Any, x: Tensor, hw: tuple[int, int], groups: Any, _: Tensor) -> Tensor:
    """The first 1x1 convolution on merged tokens."""
    fc1, depthwise, activation, _, fc2, _ = ffn.layers
    hidden = groups.unmerge(F.linear(groups.merge(x), fc1.weight.flatten(1), fc1.bias))
    hidden = activation(to_tokens(depthwise(to_map(hidden, hw))))
    return F.linear(hidden, fc2.weight.flatten(1), fc2.bias)


def second_on_merged(ffn: Any, x: Tensor, hw: tuple[int, int], groups: Any, _: Tensor) -> Tensor:
    """The second 1x1 convolution on merged tokens."""
    fc1, depthwise, activation, _, fc2, _ = ffn.layers
    hidden = F.linear(x, fc1.weight.flatten(1), fc1.bias)
    hidden = activation(to_tokens(depthwise(to_map(hidden, hw))))
    return groups.unmerge(F.linear(groups.merge(hidden), fc2.weight.flatten(1), fc2.bias))


def quiet_skip(ffn: Any, x: Tensor, hw: tuple[int, int], groups: Any, update: Tensor) -> Tensor:
    """No update for the half of the tokens that the attention changed least."""
    size = update.norm(dim=2)
    out = type(ffn).forward(ffn, x, hw)
    return out * (size >= size.median(dim=1, keepdim=True).values)[..., None]


TRIALS: dict[str, tuple[Change | None, Sequence[int]]] = {
    "MixFFN as it is": (None, ()),
    "first convolution merged, stages 1-2": (first_on_merged, (0, 1)),
    "first convolution merged, stages 3-4": (first_on_merged, (2, 3)),
    "second convolution merged, stages 1-2": (second_on_merged, (0, 1)),
    "second convolution merged, stages 3-4": (second_on_merged, (2, 3)),
    "half of the tokens not updated, stages 3-4": (quiet_skip, (2, 3)),
    "half of the tokens not updated, stage 3": (quiet_skip, (2,)),
}


@contextmanager
def changed(backbone: Any, change: Change | None, stages: Sequence[int]) -> Iterator[None]:
    """Let MixFFN of some stages work another way while it is open."""
    handles, blocks = [], [block for stage in stages for block in backbone.layers[stage][1]]
    for block in blocks:
        seen: dict[str, Any] = {}

        def look(_: Any, __: Any, output: Any, seen: dict[str, Any] = seen) -> None:
            seen["update"], seen["groups"] = output[0], output[1][0]

        def run(
            x: Tensor, hw: tuple[int, int], ffn: Any = block.ffn, seen: dict[str, Any] = seen
        ) -> Tensor:
            return change(ffn, x, hw, seen["groups"], seen["update"])  # type: ignore[misc]

        handles.append(block.attn.register_forward_hook(look))
        block.ffn.forward = run
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for block in blocks:
            del block.ffn.forward


@torch.no_grad()
def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", help="merges queries in every stage, such as plus")
    parser.add_argument("checkpoint")
    parser.add_argument("--shape", type=int, nargs=2, required=True, metavar=("H", "W"))
    parser.add_argument("--out", type=Path, required=True, help="without suffix")
    parser.add_argument("--device", default="cpu")
    parser.set_defaults(cfg_options=None)
    args = parser.parse_args()
    cfg = read_config(args)
    model = load_mit(cfg, args.checkpoint, args.device)
    resize_test(cfg, tuple(args.shape))
    samples, console, rows = Samples(cfg, "test"), Console(), []
    for name, (change, stages) in TRIALS.items():
        evaluator = Evaluator(cfg.test_evaluator)
        evaluator.dataset_meta = samples.metainfo
        with (
            changed(model.backbone, change, stages),
            progress_bar(console, name, len(samples)) as advance,
        ):
            for batch in samples:
                evaluator.process(model.test_step(batch), batch)
                advance()
        found = evaluator.evaluate(len(samples))
        rows.append([name, *(f"{float(found[key]):.2f}" for key in ("mIoU", "mIoU_small"))])
        console.print(", ".join(rows[-1]))
        title = "{}, {} x {}, nothing retrained".format(Path(args.config).stem, *args.shape)
        table = markdown_table(["MixFFN", "mIoU", "mIoU_small"], rows, title)
        write_bytes(args.out.with_suffix(".md"), f"{table}\n".encode())


if __name__ == "__main__":
    sys.exit(guard(main))
