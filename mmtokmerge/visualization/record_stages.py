"""What each stage of an encoder with EfficientAttention merges, by hooks on its attentions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from mmtokmerge.layers import EfficientAttention
from mmtokmerge.layers.attention import MergedGroups
from mmtokmerge.merging import TokenAssignment
from mmtokmerge.merging.segformer.presets import Matcher
from mmtokmerge.models import MiTPlusPlus
from mmtokmerge.visualization.merged import MergedTokens

BLOCKS = ("first", "last")


def merging_attentions(
    backbone: MiTPlusPlus, block: str = "first"
) -> Iterator[tuple[int, EfficientAttention]]:
    """Each merging stage, counted from 1, and the attention of its first or last block."""
    for stage, (_, blocks, _) in enumerate(backbone.layers, 1):
        attention = blocks[0 if block == "first" else -1].attn
        if attention.merging.q is not None or attention.merging.kv is not None:
            yield stage, attention


@contextmanager
def record_stages(backbone: MiTPlusPlus, block: str, records: list[MergedTokens]) -> Iterator[None]:
    """Append to ``records`` what each stage merges while the context is open.

    The hooks see what the attentions are given and return; the forward pass is not touched.

    Args:
        backbone: The encoder.
        block: 'first' or 'last', the block of each stage that is recorded.
        records: Grows by one entry for each merging part of each stage, in the order of running.
    """
    with ExitStack() as stack:
        for stage, attention in merging_attentions(backbone, block):
            handle = attention.register_forward_hook(_Recorder(records, stage))
            stack.callback(handle.remove)
        yield


class _Recorder:
    """The hook of one stage."""

    def __init__(self, records: list[MergedTokens], stage: int) -> None:
        self.records = records
        self.stage = stage

    @torch.no_grad()
    def __call__(
        self,
        attention: EfficientAttention,
        inputs: tuple[Any, ...],
        output: tuple[torch.Tensor, MergedGroups],
    ) -> None:
        x, hw = inputs
        merging, merged = attention.merging, output[1]
        if merging.q is not None:
            self._add("queries", merging.q, merged.q, hw)
        if merging.kv is not None:
            kv_hw = attention.reduce(x, hw)[1]
            covered = tuple(
                min(1.0, reduced * attention.sr_ratio / side) for reduced, side in zip(kv_hw, hw)
            )
            self._add("keys and values", merging.kv, merged.kv, kv_hw, covered)

    def _add(
        self,
        part: str,
        matcher: Matcher,
        assignment: TokenAssignment,
        hw: tuple[int, int],
        covered: tuple[float, float] = (1.0, 1.0),
    ) -> None:
        place, how = f"Stage {self.stage}: {part}", describe(matcher)
        self.records.append(MergedTokens(place, how, assignment, hw, covered, self.stage))


def describe(matcher: Matcher) -> str:
    """A matcher in a few words, such as 'bsm, rate 0.8, cells of 4×4'."""
    sy, sx = matcher.stride
    rate = f" rate {matcher.rate:g}," if matcher.mode == "bsm" else ""
    return f"{matcher.mode},{rate} cells of {sy}×{sx}"
