"""From a config file and a command line to a runner."""

from __future__ import annotations

import logging
import os
import re
from argparse import Namespace
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from mmengine.config import Config, ConfigDict
from mmengine.dist import get_world_size
from mmengine.logging import print_log
from mmengine.registry import MODELS
from mmengine.runner import Runner
from torch import nn

from mmtokmerge._mmpose_import import import_mmpose
from mmtokmerge.engine.config import load_config
from mmtokmerge.engine.config_check import check_names
from mmtokmerge.engine.config_values import check_values
from mmtokmerge.engine.distributed import prepare_processes
from mmtokmerge.engine.first_step import building
from mmtokmerge.engine.fit_data import check_model_fits_data
from mmtokmerge.engine.init_layers import check_init_layers
from mmtokmerge.engine.policies import check_policies
from mmtokmerge.engine.seeding import seed_train_samples
from mmtokmerge.errors import InputError
from mmtokmerge.models.weights.pretrained import check_pretrained
from mmtokmerge.models.weights.safe_load import load_weights_safely


def prepare(args: Namespace) -> Config:
    """The config of a tool's run: overridden, with a work_dir, packages and processes ready."""
    load_weights_safely()
    check_pretrained()
    cfg = load_config(args.config, args.cfg_options)
    if not cfg.get("model"):
        raise InputError(f"The config {args.config} has no model to train or test.")
    cfg.launcher = args.launcher
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get("work_dir") is None:
        cfg.work_dir = os.path.join("work_dirs", Path(args.config).stem)
    for name in ("train_dataloader", "val_dataloader", "test_dataloader"):
        loader = cfg.get(name) or {}
        if loader.get("num_workers") == 0 and loader.get("persistent_workers"):
            loader["persistent_workers"] = False  # PyTorch refuses it without workers
    import_scope(cfg.get("default_scope", "mmseg"))
    prepare_processes(cfg)
    return cfg


def import_scope(scope: str) -> None:
    """Import the package whose types a config names without prefix.

    Raises:
        InputError: The package is not installed, or cannot be imported.
    """
    try:
        if scope == "mmpose":
            import_mmpose()
        else:
            import_module(scope)
    except ImportError as error:
        raise InputError(
            f"The config's default_scope {scope!r} cannot be imported ({error}); "
            "mmtokmerge check says what mends it."
        ) from error


def prepare_training(cfg: Config, resume: bool, amp: bool) -> None:
    """Apply ``--resume`` and ``--amp``, and make every sample's augmentation reproducible."""
    if amp:
        _use_amp(cfg)
    named = cfg.get("load_from") is not None
    if resume or (cfg.get("resume") and not named):
        _resume_latest(cfg)
    elif named:
        check_checkpoint(cfg.load_from)
    say_total_batch(cfg)
    hooks = [{"type": "mmtokmerge.TrainingCheckHook"}]
    if cfg.get("load_from"):
        hooks.append({"type": "mmtokmerge.StrictLoadHook", "training": True})
    cfg.custom_hooks = [*(cfg.get("custom_hooks") or []), *hooks]
    seed_train_samples(cfg)


def say_total_batch(cfg: Config) -> None:
    """Say the total batch of this launch, and what the config's learning rate is for.

    The papers' batch sizes are totals, MMEngine's ``batch_size`` is one process's.
    """
    batch = (cfg.get("train_dataloader") or {}).get("batch_size")
    scaling = cfg.get("auto_scale_lr") or {}
    base = scaling.get("base_batch_size")
    if batch is None or base is None:
        return
    processes = get_world_size()
    total = batch * processes
    said = f"Total batch: {total}, {processes} x {batch}."
    if total == base:
        print_log(said, "current")
    elif scaling.get("enable"):
        print_log(f"{said} auto_scale_lr scales the learning rate, which is for {base}.", "current")
    else:
        each = base // processes
        fit = (
            f"train_dataloader.batch_size={each} makes it {base}, "
            if each * processes == base
            else ""
        )
        print_log(
            f"{said} The config's learning rate is for {base} and stays as it is: {fit}"
            "auto_scale_lr.enable=True scales it.",
            "current",
            logging.WARNING,
        )


def build_runner(cfg: Config, splits: Sequence[str] = ("train", "val", "test")) -> Runner:
    """The runner of the config, of its ``runner_type`` where it names one.

    Args:
        cfg: The config.
        splits: The data loaders that will be used, whose data the heads must fit.

    Raises:
        InputError: A policy of the model's token sharing has no weights, or not its own, or a head
            does not fit the data.
    """
    with building("The config's runner"):
        check_values(cfg)
        check_names(cfg)
        if "runner_type" not in cfg:
            runner = Runner.from_cfg(cfg)
        else:
            from mmengine.registry import RUNNERS

            runner = RUNNERS.build(cfg)
        if not isinstance(runner.model, nn.Module):
            # FlexibleRunner builds it when it starts, too late to say what is wrong with it
            runner.model = MODELS.build(cfg.model)
        check_init_layers(runner.model)
        check_policies(runner.model)
        check_model_fits_data(cfg, runner.model, splits)
    return runner


def check_checkpoint(path: str) -> None:
    """Raise InputError early where a local checkpoint is missing."""
    if not isinstance(path, str) or not path:
        raise InputError(f"load_from must be the path or URL of a checkpoint, got {path!r}.")
    if "://" not in path and not os.path.isfile(os.path.expanduser(path)):
        raise InputError(f"There is no checkpoint at {path}.")


def find_latest_checkpoint(work_dir: str) -> str | None:
    """The newest whole checkpoint of a training run, or None where there is none.

    The file that ``last_checkpoint`` names comes first (by its name alone where the folder was
    moved), then the highest-numbered ``iter_*.pth`` or ``epoch_*.pth``.
    """
    folder = Path(work_dir)
    note = folder / "last_checkpoint"
    named = note.read_text(encoding="utf-8", errors="replace") if note.is_file() else ""
    named = named.strip().replace("\0", "")
    for candidate in (Path(named), folder / Path(named).name):
        if named and candidate.is_file():
            return str(candidate)
    numbered = [
        (int(match.group(1)), str(path))
        for path in folder.glob("*.pth")
        if (match := re.fullmatch(r"(?:iter|epoch)_(\d+)\.pth", path.name))
    ]
    return max(numbered)[1] if numbered else None


def _resume_latest(cfg: Config) -> None:
    latest = find_latest_checkpoint(cfg.work_dir)
    if latest is None:
        print_log(
            f"Resuming: there is no checkpoint in {cfg.work_dir}, so training starts from the "
            "beginning.",
            logger="current",
            level=logging.WARNING,
        )
        return
    cfg.load_from = latest
    cfg.resume = True


def _use_amp(cfg: Config) -> None:
    import torch

    wrapper = cfg.get("optim_wrapper", ConfigDict())
    kind = wrapper.get("type", "OptimWrapper")
    if kind in ("AmpOptimWrapper", "mmtokmerge.Bf16OptimWrapper"):
        return
    if kind != "OptimWrapper":
        raise InputError(f"--amp needs optim_wrapper.type 'OptimWrapper', but it is {kind!r}.")
    if torch.cuda.is_available():
        wrapper.type = "AmpOptimWrapper"
        wrapper.setdefault("loss_scale", "dynamic")
    else:
        wrapper.type = "mmtokmerge.Bf16OptimWrapper"
