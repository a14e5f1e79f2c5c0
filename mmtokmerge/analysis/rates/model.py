"""A segmentor with MiT++: its weights, other merging for a while, the tokens that stay."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from mmengine.config import Config
from torch import nn

from mmtokmerge.engine.loading import load_model
from mmtokmerge.errors import InputError
from mmtokmerge.merging.trace import QUERIES, trace
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
def count_tokens(backbone: Any) -> Iterator[Mapping[str, int]]:
    """Count the tokens that attend in the first block of each stage, for the one image that is run.

    Yields:
        A dict that is filled when the context ends: 'stage 1 q' and 'stage 1 kv', queries and keys
        after merging, and so on.
    """
    counts: dict[str, int] = {}
    firsts = {id(stage.blocks[0].attn): n for n, stage in enumerate(backbone.stages, 1)}
    with trace(backbone) as merges:
        yield counts
    for event in merges.events:
        if (number := firsts.get(id(event.module))) is not None:
            part = "q" if event.part == QUERIES else "kv"
            counts[f"stage {number} {part}"] = event.assignment.num_groups


def _blocks(backbone: Any) -> Iterator[Any]:
    for stage in backbone.stages:
        yield from stage.blocks
