"""A segmentor with MiT++: its weights, other merging for a while, the tokens that stay."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from mmengine.config import Config
from torch import nn

from mmtokmerge.engine.loading import load_model
from mmtokmerge.errors import InputError
from mmtokmerge.merging import StageMerging
from mmtokmerge.models.backbones import MiTPlusPlus


def load_mit(cfg: Config, checkpoint: str, device: str = "cpu") -> nn.Module:
    """A config's segmentor with MiT++ and all of a checkpoint's weights, in eval mode.

    Raises:
        InputError: As :func:`mmtokmerge.engine.loading.load_model`, or attention is not fused.
    """
    model = load_model(cfg, checkpoint, device, backbone=MiTPlusPlus).model
    if not all(block.attn.attn.fused for block in _blocks(model.backbone)):
        raise InputError(
            f"model.backbone.fused_attention of {cfg.filename} is False, but speed is compared "
            "with fused attention: leave it out."
        )
    return model


@contextmanager
def merging_as(backbone: Any, merging: Sequence[StageMerging]) -> Iterator[None]:
    """Let a MiT++ merge another way while it is open; afterwards it is as it was.

    Args:
        backbone: A :class:`mmtokmerge.models.backbones.MiTPlusPlus`.
        merging: Of the four stages.
    """
    before = backbone.merging
    try:
        _set_merging(backbone, merging)
        yield
    finally:
        _set_merging(backbone, before)


@contextmanager
def count_tokens(backbone: Any) -> Iterator[Mapping[str, int]]:
    """Count the tokens that attend in the first block of each stage, for the one image that is run.

    Yields:
        A dict that is filled by the forward pass: 'stage 1 q' and 'stage 1 kv', queries and keys
        after merging, and so on.
    """
    counts: dict[str, int] = {}
    handles = []
    for number, (_, blocks, _) in enumerate(backbone.layers, 1):

        def look(
            attention: nn.Module, inputs: tuple[Any, ...], output: Any, number: int = number
        ) -> None:
            _, groups = output
            hw = inputs[1]
            ratio = attention.sr_ratio
            keys = max(1, hw[0] // ratio) * max(1, hw[1] // ratio)
            kept_q, kept_kv = groups
            counts[f"stage {number} q"] = hw[0] * hw[1] if kept_q is None else kept_q.num_groups
            counts[f"stage {number} kv"] = keys if kept_kv is None else kept_kv.num_groups

        handles.append(blocks[0].attn.register_forward_hook(look))
    try:
        yield counts
    finally:
        for handle in handles:
            handle.remove()


def _set_merging(backbone: Any, merging: Sequence[StageMerging]) -> None:
    backbone.merging = list(merging)
    for (_, blocks, _), stage in zip(backbone.layers, merging):
        for block in blocks:
            block.attn.merging = stage


def _blocks(backbone: Any) -> Iterator[Any]:
    for _, blocks, _ in backbone.layers:
        yield from blocks
