"""Models outside a runner, with all weights of a checkpoint: to compare, to analyse, to predict."""

from __future__ import annotations

import argparse
import copy
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from mmtokmerge.deploy.runtimes import is_exported
from mmtokmerge.engine.config_check import check_names
from mmtokmerge.engine.exported import use_exported
from mmtokmerge.engine.first_step import building
from mmtokmerge.engine.launch import check_checkpoint, import_scope, load_config
from mmtokmerge.engine.policies import check_policies
from mmtokmerge.errors import InputError
from mmtokmerge.models.backbones import plain_vit_of
from mmtokmerge.models.weights.fit import load_weights
from mmtokmerge.models.weights.safe_load import load_weights_safely
from mmtokmerge.models.weights.state_dicts import is_threshold
from mmtokmerge.quiet import ignore_known_warnings


@dataclass(frozen=True)
class LoadedModel:
    """A model in eval mode.

    Args:
        model: Segmentor or pose estimator.
        checkpoint: What its checkpoint holds.
    """

    model: nn.Module
    checkpoint: dict[str, Any]


def read_config(args: argparse.Namespace) -> Config:
    """Read a command's config, load weights safely, and keep mmengine's warnings quiet."""
    load_weights_safely()
    MMLogger.get_current_instance().setLevel("ERROR")
    return load_config(args.config, args.cfg_options)


def check_device(device: str) -> None:
    """Raise InputError where torch has no such device."""
    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        raise InputError(f"--device {device!r} is unknown: take cpu or cuda.") from error
    if kind == "cuda" and not torch.cuda.is_available():
        raise InputError(f"--device {device}: PyTorch finds no CUDA device here, take cpu.")


def load_model(
    config: str | Config,
    checkpoint: str,
    device: str = "cpu",
    *,
    backbone: type[nn.Module] | None = None,
    uncalibrated: bool = False,
    exported: bool = False,
) -> LoadedModel:
    """Build a config's segmentor or pose estimator with all of a checkpoint's weights.

    Args:
        config: A config file, or what was read from one.
        checkpoint: A file or a URL.
        device: Where the model goes, as torch names it.
        backbone: The class that its backbone must be of.
        uncalibrated: Whether the checkpoint may lack the thresholds of ``threshold='auto'``.
        exported: Whether the checkpoint may be a file of ``mmtokmerge export``, which then predicts
            in the place of the config's network.

    Raises:
        InputError: The config or the checkpoint is missing or damaged, they do not fit, the config
            has no model or another backbone, a policy lacks its weights, there is no such device.
    """
    cfg = load_config(config) if isinstance(config, str) else config
    check_device(device)
    check_checkpoint(checkpoint)
    scope = cfg.get("default_scope", "mmseg")
    if "backbone" not in (cfg.get("model") or {}) or scope not in ("mmseg", "mmpose"):
        raise InputError(f"The config {cfg.filename} has no model with a backbone.")
    if is_exported(checkpoint):
        if not exported:
            raise InputError(f"{checkpoint} is an exported file, but this needs a model's weights.")
        return LoadedModel(_load_exported(cfg, checkpoint, scope), {})
    load_weights_safely()
    ignore_known_warnings()
    import_scope(scope)
    if scope == "mmpose":
        from mmpose.apis import init_model
    else:
        from mmseg.apis import init_model
    with building(f"The model of {cfg.filename}"):
        check_names(cfg)
        model: nn.Module = init_model(cfg, checkpoint=None, device=device)
    if backbone is not None and not isinstance(plain_vit_of(model.backbone), backbone):
        raise InputError(
            f"The backbone of {cfg.filename} is a {type(model.backbone).__name__}, but this needs "
            f"mmtokmerge.{backbone.__name__}."
        )
    content = load_weights(
        model, checkpoint, may_lack=is_threshold if uncalibrated else lambda key: False
    )
    check_policies(model)
    return LoadedModel(model.eval(), content)


def _load_exported(cfg: Config, path: str, scope: str) -> nn.Module:
    """What predicts with an exported file as the config's model would."""
    import_scope(scope)
    cfg = copy.deepcopy(cfg)
    use_exported(cfg, path)
    with DefaultScope.overwrite_default_scope(scope):
        model: nn.Module = MODELS.build(cfg.model)
    if scope == "mmpose":
        from mmpose.apis.inference import dataset_meta_from_config

        model.dataset_meta = dataset_meta_from_config(cfg, dataset_mode="train")
    return model.eval()


def load_segmentor(config: str | Config, checkpoint: str, device: str = "cpu") -> nn.Module:
    """The model of :func:`load_model`, which must be a segmentor.

    Raises:
        InputError: As there, or the config is of another task.
    """
    cfg = load_config(config) if isinstance(config, str) else config
    if cfg.get("default_scope", "mmseg") != "mmseg":
        raise InputError(f"The config {cfg.filename} has no segmentation model.")
    return load_model(cfg, checkpoint, device).model
