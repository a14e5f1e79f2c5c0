"""The models of one benchmark, built from configs, all with the same weights where they fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from mmtokmerge.benchmark.baselines import stock_model
from mmtokmerge.benchmark.settings import DTYPES, Settings
from mmtokmerge.engine.launch import import_scope
from mmtokmerge.merging import StageMerging
from mmtokmerge.merging.arch import MiTArch
from mmtokmerge.merging.settings import read_merging


@dataclass(frozen=True)
class EncoderSpec:
    """What the closed formula needs to know about a Mix Vision Transformer."""

    arch: MiTArch
    merging: tuple[StageMerging, ...]
    downsample: int
    in_channels: int


@dataclass
class Contestant:
    """A model that takes part.

    Args:
        name: Unique in the run.
        is_baseline: Whether the others are compared with it.
        model: Segmentor or pose estimator, with SyncBN turned into BN.
        scope: mm* package whose types its config names without prefix.
        optim_wrapper: Config of its optimizer, for training steps.
        encoder: For Mix Vision Transformers; None for other backbones.
    """

    name: str
    is_baseline: bool
    model: nn.Module
    scope: str
    optim_wrapper: ConfigDict
    encoder: EncoderSpec | None


def build_contestants(
    configs: Sequence[tuple[str, Config]], baselines: Sequence[str], settings: Settings
) -> list[Contestant]:
    """Build the baselines of the first config, then every config, with the first one's weights.

    Pretrained weights are not loaded: how long a step takes does not depend on them.

    Args:
        configs: Path and content of each config.
        baselines: Keys of :data:`mmtokmerge.benchmark.baselines.ENCODERS`.
        settings: Give the seed, the device and the dtype.

    Raises:
        InputError: If a baseline is asked for and the first config's model has none.
    """
    own = [
        _build(name, cfg, cfg.model, False, settings)
        for name, (_, cfg) in zip(_names([path for path, _ in configs]), configs)
    ]
    first = configs[0][1]
    stock = []
    for name in baselines:
        contestant = _build(name, first, stock_model(first.model, name), True, settings)
        if own[0].encoder is not None:
            spec = own[0].encoder
            contestant.encoder = EncoderSpec(
                spec.arch, tuple(read_merging("none")), 1, spec.in_channels
            )
        stock.append(contestant)
    contestants = stock + own
    _share_weights(own[0].model, [each for each in contestants if each is not own[0]])
    for contestant in contestants:
        contestant.model.to(settings.device)
        if settings.train:
            contestant.model.train()
        else:
            contestant.model.eval().to(DTYPES[settings.dtype])
    return contestants


def _build(
    name: str, cfg: Config, model_cfg: ConfigDict, is_baseline: bool, settings: Settings
) -> Contestant:
    scope = cfg.get("default_scope", "mmseg")
    import_scope(scope)
    torch.manual_seed(settings.seed)
    with DefaultScope.overwrite_default_scope(scope):
        model = revert_sync_batchnorm(MODELS.build(model_cfg))
    optimizer = ConfigDict(optimizer=dict(type="AdamW", lr=6e-5))
    optim_wrapper = cfg.get("optim_wrapper", optimizer)
    return Contestant(name, is_baseline, model, scope, optim_wrapper, _encoder_spec(model.backbone))


def _encoder_spec(backbone: Any) -> EncoderSpec | None:
    from mmtokmerge.models.backbones import MiTPlusPlus

    if not isinstance(backbone, MiTPlusPlus):
        return None
    in_channels = backbone.layers[0][0].projection.in_channels
    return EncoderSpec(backbone.arch, tuple(backbone.merging), backbone.downsample, in_channels)


def _share_weights(first: nn.Module, others: Sequence[Contestant]) -> None:
    weights = first.state_dict()
    shapes = {key: value.shape for key, value in weights.items()}
    for other in others:
        own = {key: value.shape for key, value in other.model.state_dict().items()}
        if other.is_baseline or own == shapes:
            other.model.load_state_dict(weights)


def _names(paths: Sequence[str]) -> list[str]:
    """File names without suffix; the whole path, or a number too, where they are not unique."""
    stems = [Path(path).stem for path in paths]
    names = [path if stems.count(stem) > 1 else stem for path, stem in zip(paths, stems)]
    return [
        f"{name} #{names[:index].count(name) + 1}" if names.count(name) > 1 else name
        for index, name in enumerate(names)
    ]
