"""A segmentor with MiT++: its weights, other merging for a while, the tokens that stay."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.config import Config
from mmengine.runner import CheckpointLoader
from mmseg.apis import init_model
from torch import nn

from mmtokmerge.engine.hooks.strict_load import check_weights
from mmtokmerge.engine.launch import check_checkpoint, import_scope
from mmtokmerge.errors import InputError
from mmtokmerge.merging import StageMerging
from mmtokmerge.models.backbones import MiTPlusPlus


def load_mit(cfg: Config, checkpoint: str, device: str = "cpu") -> nn.Module:
    """Build a config's segmentor with all of a checkpoint's weights, in eval mode.

    Raises:
        InputError: If the config has no segmentor with a MiT++ or its attention is not fused, the
            checkpoint is missing, damaged or of another model, or there is no such device.
    """
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(f"--device {device}: PyTorch finds no CUDA device here, take cpu.")
    if cfg.get("default_scope", "mmseg") != "mmseg" or "backbone" not in cfg.get("model", {}):
        raise InputError(f"The config {cfg.filename} has no segmentation model with a backbone.")
    check_checkpoint(checkpoint)
    import_scope("mmseg")
    model: nn.Module = init_model(cfg, checkpoint=None, device=device)
    if not isinstance(model.backbone, MiTPlusPlus):
        raise InputError(
            f"The backbone of {cfg.filename} is a {type(model.backbone).__name__}, but this needs "
            "mmtokmerge.MiTPlusPlus, as in configs/segformerpp."
        )
    if not all(block.attn.attn.fused for block in _blocks(model.backbone)):
        raise InputError(
            f"model.backbone.fused_attention of {cfg.filename} is False, but speed is compared "
            "with fused attention: leave it out."
        )
    content = CheckpointLoader.load_checkpoint(checkpoint, map_location="cpu")
    given = content.get("state_dict", content)
    weights = {key.removeprefix("module."): value for key, value in given.items()}
    check_weights(model, weights, checkpoint)
    model.load_state_dict(weights, strict=False)
    model.eval()
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
