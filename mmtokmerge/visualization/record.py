"""Which tokens a model merges: read off while it encodes, leaving nothing behind on its modules."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..layers import EfficientAttention
from ..merging import TokenAssignment
from ..merging.settings import Matcher
from ..models import MiTPlusPlus

BLOCKS = ("first", "last")


@dataclass(frozen=True, eq=False)
class MergedTokens:
    """The tokens that one stage merged in one forward pass.

    Args:
        stage: Stage, counted from 1.
        part: 'queries' or 'keys/values'.
        matcher: What merged them.
        assignment: Which tokens of the grid stand together, ``(B, h*w)``.
        hw: The tokens' grid ``(h, w)``.
        covered: Fraction of the input's height and width that the grid covers: a spatial reduction
            that does not divide its grid leaves out the bottom and right rest.
    """

    stage: int
    part: str
    matcher: Matcher
    assignment: TokenAssignment
    hw: tuple[int, int]
    covered: tuple[float, float] = (1.0, 1.0)

    def groups(self, image: int = 0) -> Tensor:
        """``(h*w,)`` int64: the group of each token of one image of the batch."""
        return self.assignment.groups[self._row(image)]

    def num_kept(self, image: int = 0) -> int:
        """How many groups one image of the batch keeps; padded ones do not count."""
        return int((self.assignment.sizes[self._row(image)] > 0).sum())

    def _row(self, image: int) -> int:
        return image if self.assignment.groups.shape[0] > 1 else 0


@contextmanager
def record_assignments(model: nn.Module, block: str = "first") -> Iterator[list[MergedTokens]]:
    """Record what each stage of a model merges while the context is open.

    The assignments are computed once more from what the attention is given; the modules' own
    forward pass is not touched, and without this context nothing is computed or kept. Modules that
    were compiled by ``torch.compile`` do not report: run the uncompiled model inside the context.

    Args:
        model: A model that holds a :class:`mmtokmerge.models.MiTPlusPlus`, or one itself.
        block: 'first' or 'last', the block of each stage that is recorded.

    Yields:
        A list that grows by one entry for each merging part of each stage, in the order of running;
        it stays empty where the model merges nothing.

    Raises:
        ValueError: If ``block`` is unknown.
    """
    if block not in BLOCKS:
        raise ValueError(f"block={block!r} is unknown, allowed are 'first' and 'last'")
    records: list[MergedTokens] = []
    with ExitStack() as stack:
        for stage, attention in _merging_attentions(model, block):
            handle = attention.register_forward_pre_hook(_Recorder(records, stage))
            stack.callback(handle.remove)
        yield records


def merges(model: nn.Module) -> bool:
    """Whether :func:`record_assignments` finds anything to record in a model."""
    return any(_merging_attentions(model))


def _merging_attentions(
    model: nn.Module, block: str = "first"
) -> Iterator[tuple[int, EfficientAttention]]:
    """Each merging stage, counted from 1, and the attention of its first or last block."""
    for backbone in model.modules():
        if isinstance(backbone, MiTPlusPlus):
            for stage, (_, blocks, _) in enumerate(backbone.layers, 1):
                attention = blocks[0 if block == "first" else -1].attn
                if attention.merging.q is not None or attention.merging.kv is not None:
                    yield stage, attention


class _Recorder:
    """The hook of one stage."""

    def __init__(self, records: list[MergedTokens], stage: int) -> None:
        self.records = records
        self.stage = stage

    @torch.no_grad()
    def __call__(self, attention: EfficientAttention, inputs: tuple[Any, ...]) -> None:
        x, hw = inputs
        merging = attention.merging
        if merging.q is not None:
            groups = merging.q.assign(x, hw)
            self.records.append(MergedTokens(self.stage, "queries", merging.q, groups, hw))
        if merging.kv is not None:
            kv, kv_hw = attention.reduce(x, hw)
            covered = tuple(
                min(1.0, reduced * attention.sr_ratio / side) for reduced, side in zip(kv_hw, hw)
            )
            groups = merging.kv.assign(kv, kv_hw)
            self.records.append(
                MergedTokens(self.stage, "keys/values", merging.kv, groups, kv_hw, covered)
            )


@torch.no_grad()
def encode_one(
    model: nn.Module, batch: Mapping[str, Any], index: int = 0, block: str = "first"
) -> tuple[Tensor, list[MergedTokens], str]:
    """Encode one image of a test batch again, and record what is merged.

    Args:
        model: A segmentor of mmseg with a ``backbone``, in eval mode.
        batch: A batch as ``model.test_step`` takes it, or the batch of a test-time augmentation,
            whose first view is taken.
        index: Which image of the batch.
        block: See :func:`record_assignments`.

    Returns:
        The pixels ``(3, H, W)`` that the encoder saw, RGB from 0 to 255, padding included; the
        record for a batch of this one image; and a note that says what part or view of the image
        this is, '' for the whole image. A model tested by sliding windows encodes its first window.
    """
    inputs, samples, note = batch["inputs"], batch.get("data_samples"), ""
    if not isinstance(inputs[0], Tensor):
        inputs, samples, note = inputs[0], samples[0] if samples else None, "first augmented view"
    one = dict(inputs=[inputs[index]], data_samples=[samples[index]] if samples else None)
    x = model.data_preprocessor(one, False)["inputs"]  # (1, 3, H, W)
    height, width = x.shape[2:]
    pixels = inputs[index].flip(0)  # mmseg loads BGR
    pixels = nn.functional.pad(pixels, (0, width - pixels.shape[2], 0, height - pixels.shape[1]))
    test_cfg = getattr(model, "test_cfg", None) or {}
    if test_cfg.get("mode") == "slide":
        rows, columns = (min(a, b) for a, b in zip(test_cfg["crop_size"], (height, width)))
        if (rows, columns) != (height, width):
            note = f"first window, {rows}×{columns} of {height}×{width}" + (note and f", {note}")
        x, pixels = x[:, :, :rows, :columns], pixels[:, :rows, :columns]
    with record_assignments(model.backbone, block) as records:
        model.backbone(x)
    return pixels, records, note
