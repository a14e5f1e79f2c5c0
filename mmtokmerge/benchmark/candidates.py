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
from mmengine.runner import CheckpointLoader
from torch import Tensor, nn

from mmtokmerge.benchmark.baselines import FIRST, stock_model
from mmtokmerge.benchmark.options import DTYPES, Settings
from mmtokmerge.benchmark.peers.models import peer_models
from mmtokmerge.benchmark.runtimes import SUFFIXES, TORCH, in_runtimes
from mmtokmerge.engine.config_check import check_names
from mmtokmerge.engine.first_step import building
from mmtokmerge.engine.launch import check_checkpoint, import_scope
from mmtokmerge.engine.policies import check_policies
from mmtokmerge.merging import StageMerging
from mmtokmerge.merging.segformer.arch import MiTArch
from mmtokmerge.merging.segformer.presets import read_merging
from mmtokmerge.models.weights.fit import fit_weights
from mmtokmerge.models.weights.safe_load import load_weights_safely
from mmtokmerge.models.weights.state_dicts import state_dict_of

REDUCERS = "backbone.reducers."


@dataclass(frozen=True)
class EncoderSpec:
    """What the closed formula needs to know about a Mix Vision Transformer."""

    arch: MiTArch
    merging: tuple[StageMerging, ...]
    downsample: int
    in_channels: int

    @property
    def merges(self) -> bool:
        """Whether anything is left out: tokens merged, or the image halved."""
        return self.downsample != 1 or any(stage != StageMerging() for stage in self.merging)


@dataclass
class Candidate:
    """A model that takes part.

    Args:
        name: Unique in the run.
        is_baseline: Whether the others are compared with it.
        model: Segmentor or pose estimator, with SyncBN turned into BN.
        scope: mm* package whose types its config names without prefix.
        optim_wrapper: Config of its optimizer, for training steps.
        encoder: For MiT++ and what replaces it unmerged; None for other backbones.
        in_channels: Channels of its images.
        runtime: What runs it, see :mod:`mmtokmerge.benchmark.runtimes`.
    """

    name: str
    is_baseline: bool
    model: nn.Module
    scope: str
    optim_wrapper: ConfigDict
    encoder: EncoderSpec | None
    in_channels: int = 3
    runtime: str = TORCH

    @property
    def reducers(self) -> list[nn.Module]:
        """What merges the tokens of a plain ViT; empty for other backbones."""
        return list(getattr(self.model.backbone, "reducers", ()))

    @property
    def sharing(self) -> nn.Module | None:
        """What lets tokens share in a plain ViT; None for other backbones, and where none do."""
        return getattr(self.model.backbone, "sharing", None)

    @property
    def depends_on_images(self) -> bool:
        """Whether what is computed is known only with images at hand."""
        return bool(self.reducers) or self.sharing is not None


def build_candidates(
    configs: Sequence[tuple[str, Config]],
    baselines: Sequence[str],
    settings: Settings,
    peers: Sequence[str] = (),
    checkpoint: str | None = None,
) -> list[Candidate]:
    """Build the baselines and peers of the first config, then every config, with its weights.

    Pretrained weights are not loaded unless a checkpoint is given: how long a step takes depends on
    them only where a threshold decides what merges.

    Args:
        configs: Path and content of each config.
        baselines: Keys of :data:`mmtokmerge.benchmark.baselines.ENCODERS`, or 'first' for the first
            config's own model.
        settings: Give the seed, the device and the dtype.
        peers: Keys of :data:`mmtokmerge.benchmark.peers.models.PEERS`.
        checkpoint: Weights of the first config's model.

    Raises:
        InputError: If a baseline is asked for and the first config's model has none, or a
            checkpoint, of the model or of a policy, is missing or of another model.
    """
    names = _names([path for path, _ in configs])
    for _, cfg in configs:
        import_scope(cfg.get("default_scope", "mmseg"))
        check_names(cfg)
    own = [_build(name, cfg, cfg.model, settings) for name, (_, cfg) in zip(names, configs)]
    load_weights_safely()
    first = configs[0][1]
    unmerged = [(name, stock_model(first.model, name)) for name in baselines if name != FIRST]
    own[0].is_baseline = FIRST in baselines
    others = peer_models(peers, [(name, cfg.model) for name, (_, cfg) in zip(names, configs)])
    rivals = []
    for name, model in (*unmerged, *others):
        rival = _build(name, first, model, settings)
        rival.is_baseline = True
        rival.in_channels = own[0].in_channels
        if own[0].encoder is not None and not name.startswith("tomesd"):
            spec = own[0].encoder
            nothing = tuple(read_merging("none"))
            rival.encoder = EncoderSpec(spec.arch, nothing, 1, spec.in_channels)
        rivals.append(rival)
    if checkpoint is not None:
        _load(own, checkpoint)
    _share_weights(own[0].model, [*rivals, *own[1:]])
    every = in_runtimes([*rivals, *own], settings.runtimes)
    for candidate in every:
        check_policies(candidate.model)
        candidate.model.to(settings.device)
        if settings.train:
            candidate.model.train()
        else:
            exported = candidate.runtime in SUFFIXES
            _convert(candidate, torch.float32 if exported else DTYPES[settings.dtype])
    return every


def _build(name: str, cfg: Config, model_cfg: ConfigDict, settings: Settings) -> Candidate:
    scope = cfg.get("default_scope", "mmseg")
    import_scope(scope)
    torch.manual_seed(settings.seed)
    with DefaultScope.overwrite_default_scope(scope), building(f"The model of {name}"):
        model = revert_sync_batchnorm(MODELS.build(model_cfg))
    optimizer = ConfigDict(optimizer=dict(type="AdamW", lr=6e-5))
    optim_wrapper = cfg.get("optim_wrapper", optimizer)
    spec = _encoder_spec(model.backbone)
    channels = model_cfg.backbone.get("in_channels", 3) if spec is None else spec.in_channels
    return Candidate(name, False, model, scope, optim_wrapper, spec, channels)


def _encoder_spec(backbone: Any) -> EncoderSpec | None:
    from mmtokmerge.models.backbones import MiTPlusPlus

    if not isinstance(backbone, MiTPlusPlus):
        return None
    in_channels = backbone.layers[0][0].projection.in_channels
    return EncoderSpec(backbone.arch, tuple(backbone.merging), backbone.downsample, in_channels)


def _load(own: Sequence[Candidate], path: str) -> None:
    """Give every config the checkpoint's weights, and its thresholds where the reducers fit."""
    check_checkpoint(path)
    content = CheckpointLoader.load_checkpoint(path, map_location="cpu")
    found = state_dict_of(content, path)
    for candidate in own:
        weights = _without_reducers(found)
        for key, value in candidate.model.state_dict().items():
            if key.startswith(REDUCERS):
                weights[key] = found.get(key, value)
        fitted = fit_weights(candidate.model, weights, path)
        candidate.model.load_state_dict(fitted.weights, strict=False)


def _convert(candidate: Candidate, dtype: torch.dtype) -> None:
    """Make a model ready for inference in a dtype; thresholds, which are compared, stay exact."""
    exact = [(each, each.tau) for each in candidate.reducers if hasattr(each, "tau")]
    candidate.model.eval().to(dtype)
    for reducer, tau in exact:
        reducer.tau = tau


def _share_weights(first: nn.Module, others: Sequence[Candidate]) -> None:
    """Load the first model's weights into those of the same network."""
    weights = _without_reducers(first.state_dict())
    shapes = {key: value.shape for key, value in weights.items()}
    for other in others:
        own = other.model.state_dict()
        same = {key: value.shape for key, value in _without_reducers(own).items()} == shapes
        if other.is_baseline or same:
            reducers = {key: value for key, value in own.items() if key.startswith(REDUCERS)}
            other.model.load_state_dict({**weights, **reducers})


def _without_reducers(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict without the thresholds of a plain ViT's reducers, which are a config's own."""
    return {key: value for key, value in weights.items() if not key.startswith(REDUCERS)}


def _names(paths: Sequence[str]) -> list[str]:
    """File names without suffix; the whole path, or a number too, where they are not unique."""
    stems = [Path(path).stem for path in paths]
    names = [path if stems.count(stem) > 1 else stem for path, stem in zip(paths, stems)]
    return [
        f"{name} #{names[:index].count(name) + 1}" if names.count(name) > 1 else name
        for index, name in enumerate(names)
    ]
