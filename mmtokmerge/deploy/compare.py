"""Whether an exported file gives what its model gives."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mmtokmerge.deploy.runtimes import Exported, leaves

LABELS = 1e-3
RUNS = 3  # of each batch: threads of a runtime may give other numbers at each run


@dataclass(frozen=True)
class Agreement:
    """One batch through a file and its model.

    Args:
        shape: The shape of the batch.
        difference: Worst difference of an output, relative to the model's largest.
        same_labels: Of the last output of maps, share of positions whose strongest channel is the
            same; of one without channels, share of numbers that agree to 1e-3.
    """

    shape: tuple[int, ...]
    difference: float
    same_labels: float

    def __str__(self) -> str:
        shape = "x".join(map(str, self.shape))
        return f"{shape}: differs by {self.difference:.1e}, labels agree on {self.same_labels:.3%}"


@torch.no_grad()
def compare(model: nn.Module, exported: Exported, batches: Sequence[Tensor]) -> list[Agreement]:
    """Run batches through both.

    Args:
        model: The model, in eval mode.
        exported: The exported file.
        batches: Images ``(B, C, H, W)``.
    """
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    found = []
    for batch in batches:
        expected = [out.cpu() for out in leaves(model(batch.to(device)))]
        worst = 0.0
        for _ in range(RUNS):
            pairs = list(zip(exported(batch), expected, strict=True))
            worst = max(worst, *(_difference(a, b) for a, b in pairs))
        maps = [pair for pair in pairs if pair[1].dim() > 1] or pairs
        found.append(Agreement(tuple(batch.shape), worst, _same_labels(*maps[-1])))
    return found


def _difference(a: Tensor, b: Tensor) -> float:
    """Worst difference of two outputs, relative to the second's largest number.

    Infinite where their shapes differ, or one has a number where the other has none. Of labels it
    is the share that differs, and 0 up to one of a thousand: rounding turns near ties.
    """
    if a.shape != b.shape:
        return math.inf
    if not b.is_floating_point():
        share = float((a != b).double().mean()) if b.numel() else 0.0
        return share if share > LABELS else 0.0
    a, b = a.double(), b.double()
    known = b.isfinite()
    if not torch.equal(known, a.isfinite()):
        return math.inf
    if not bool(known.any()):
        return 0.0
    return float((a - b)[known].abs().max()) / _size(b[known])


def _size(x: Tensor) -> float:
    return float(x.abs().max()) or 1.0


def _same_labels(a: Tensor, b: Tensor) -> float:
    if a.shape != b.shape:
        return 0.0
    if a.dim() == 4 and a.shape[1] > 1 and a.is_floating_point():
        a, b = a.argmax(1), b.argmax(1)
        return float((a == b).double().mean())
    return float(torch.isclose(a.double(), b.double(), atol=1e-3, rtol=1e-3).double().mean())
