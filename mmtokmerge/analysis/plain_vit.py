"""A segmentor with this project's plain ViT: its weights, its reducers, the tokens it keeps."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.config import Config
from mmengine.runner import CheckpointLoader
from mmseg.apis import init_model
from torch import nn

from mmtokmerge.engine.hooks.strict_load import check_weights
from mmtokmerge.engine.launch import check_checkpoint, import_scope
from mmtokmerge.engine.policies import check_policies
from mmtokmerge.errors import InputError
from mmtokmerge.merging import TokenAssignment
from mmtokmerge.models.backbones import VisionTransformer
from mmtokmerge.models.reducers import ThresholdReducer, ToMe

THRESHOLD = "threshold"
NUM_MERGED = "num_merged"
KINDS = {THRESHOLD: ThresholdReducer, NUM_MERGED: ToMe}
PATCHES = "patches"
SHORT = {"ConditionalLocalPooling": "CLAP", "GlobalBipartiteMerging": "GBM"}


def load_plain_vit(
    cfg: Config, checkpoint: str, device: str = "cpu"
) -> tuple[nn.Module, dict[str, Any]]:
    """Build a config's segmentor with all of a checkpoint's weights, in eval mode.

    The checkpoint may lack the thresholds of reducers with ``threshold='auto'``.

    Returns:
        The segmentor and what the checkpoint holds.

    Raises:
        InputError: If the config has no segmentor with a plain ViT of this project, the checkpoint
            is missing, damaged or of another model, or there is no such device.
    """
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(f"--device {device}: PyTorch finds no CUDA device here, take cpu.")
    if cfg.get("default_scope", "mmseg") != "mmseg" or "backbone" not in cfg.get("model", {}):
        raise InputError(f"The config {cfg.filename} has no segmentation model with a backbone.")
    check_checkpoint(checkpoint)
    import_scope("mmseg")
    model = init_model(cfg, checkpoint=None, device=device)
    if not isinstance(model.backbone, VisionTransformer):
        raise InputError(
            f"The backbone of {cfg.filename} is a {type(model.backbone).__name__}, but this needs "
            "mmtokmerge.VisionTransformer, as in configs/algm."
        )
    content = CheckpointLoader.load_checkpoint(checkpoint, map_location="cpu")
    given = content.get("state_dict", content)
    weights = {key.removeprefix("module."): value for key, value in given.items()}
    for key, value in model.state_dict().items():
        if key.startswith("backbone.reducers.") and key.endswith(".tau"):
            weights.setdefault(key, value.cpu())
    check_weights(model, weights, checkpoint)
    check_policies(model)
    model.load_state_dict(weights, strict=False)
    return model.eval(), content


def auto_reducers(backbone: Any) -> dict[int, ThresholdReducer]:
    """The reducers with ``threshold='auto'`` by their index."""
    return {
        index: reducer
        for index, reducer in enumerate(backbone.reducers)
        if isinstance(reducer, ThresholdReducer) and reducer.auto
    }


def lacks_threshold(backbone: Any) -> bool:
    """Whether a threshold 'auto' was neither calibrated nor in the checkpoint."""
    return any(bool(each.tau.isnan()) for each in auto_reducers(backbone).values())


def check_searchable(backbone: Any, name: str, config: str) -> None:
    """Raise InputError unless a reducer of the config has 'threshold' or 'num_merged'."""
    if not _having(backbone, name):
        kinds = ", ".join(type(each).__name__ for each in backbone.reducers) or "none"
        hint = "--num-merged searches ToMe" if name == THRESHOLD else "--taus searches ALGM"
        raise InputError(
            f"No entry of model.backbone.reducers in {config} has {name} (there are: {kinds}); "
            f"{hint}."
        )


def configured_value(backbone: Any, name: str) -> float | None:
    """The 'threshold' or 'num_merged' that all reducers have; None where they differ or lack it."""
    having = _having(backbone, name)
    found = {_value(each, name) for each in having}
    value = found.pop() if len(found) == 1 and len(having) == len(backbone.reducers) else None
    return None if value is None or math.isnan(value) else value


@contextmanager
def override_reducers(backbone: Any, name: str, value: float) -> Iterator[None]:
    """Give all reducers that have it the same 'threshold' or 'num_merged' while it is open."""
    having = _having(backbone, name)
    before = [_value(each, name) for each in having]
    try:
        for each in having:
            setattr(each, name, value)
        yield
    finally:
        for each, old in zip(having, before):
            setattr(each, name, old)


@contextmanager
def count_tokens(backbone: Any) -> Iterator[Mapping[str, int]]:
    """Count the tokens of the one image that is run while it is open.

    Yields:
        A dict that is filled when the context ends: 'patches', and 'after CLAP (1)' and so on for
        each reducer after its last layer.
    """
    seen: dict[int, TokenAssignment] = {}
    counts: dict[str, int] = {}

    def observe(observation: Any) -> None:
        counts[PATCHES] = observation.hw[0] * observation.hw[1]
        seen[observation.layer - 1] = observation.before  # with what acted after the MLP
        seen[observation.layer] = observation.after

    with backbone.observing(observe):
        yield counts
    if backbone.last_assignment is not None:
        seen[len(backbone.layers)] = backbone.last_assignment
    for reducer in backbone.reducers:
        last = max(reducer.layers)
        kind = type(reducer).__name__
        counts[f"after {SHORT.get(kind, kind)} ({last})"] = int((seen[last].sizes > 0).sum())


def _having(backbone: Any, name: str) -> list[Any]:
    kind = KINDS[name]
    return [each for each in backbone.reducers if isinstance(each, kind)]


def _value(reducer: Any, name: str) -> float:
    """As it stands, nan for a threshold 'auto' that no checkpoint brought."""
    return float(reducer.tau) if name == THRESHOLD else reducer.num_merged
