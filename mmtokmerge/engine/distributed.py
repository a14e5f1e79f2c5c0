"""Several processes, with or without GPUs."""

from __future__ import annotations

import logging
import os
from datetime import timedelta
from typing import Any

import torch
from mmengine.config import Config
from mmengine.logging import print_log

from mmtokmerge.errors import InputError


def prepare_processes(cfg: Config) -> None:
    """Choose the communication backend and, without a GPU, do what mmengine does only with one.

    With a GPU the backend is nccl, without gloo, unless ``env_cfg.dist_cfg.backend`` says so.
    Without a GPU data parallelism needs a model wrapper without device numbers, and SyncBN, which
    PyTorch has for GPUs alone, becomes BN.

    Raises:
        InputError: The processes were not started by torchrun as ``--launcher pytorch`` says, or
            slurm is asked for on a machine without a GPU.
    """
    launcher = cfg.get("launcher", "none")
    if launcher == "none":
        return
    if launcher == "pytorch" and "WORLD_SIZE" not in os.environ:
        raise InputError(
            "--launcher pytorch needs the processes that torchrun starts; use tools/dist_train.sh "
            "or tools/dist_test.sh, or leave the option out for one process."
        )
    dist_cfg = dict(cfg.get("env_cfg", {}).get("dist_cfg", {}))
    if torch.cuda.is_available():
        return
    if launcher == "slurm":
        raise InputError("--launcher slurm needs a GPU on each node; use pytorch on CPUs.")
    if dist_cfg.get("backend", "nccl") == "nccl":
        dist_cfg["backend"] = "gloo"
    _init_on_cpu(dist_cfg)
    cfg.model_wrapper_cfg = {
        "type": "MMDistributedDataParallel",
        "device_ids": None,
        "broadcast_buffers": False,
        "find_unused_parameters": cfg.get("find_unused_parameters", False),
        **cfg.get("model_wrapper_cfg", {}),
    }
    if _replace_sync_bn(cfg.get("model")):
        print_log("SyncBN needs GPUs: BN stands in.", logger="current", level=logging.WARNING)


def _init_on_cpu(dist_cfg: dict) -> None:
    """Start the process group; mmengine's own start selects a CUDA device first."""
    options = {key: value for key, value in dist_cfg.items() if key != "timeout"}
    if "timeout" in dist_cfg:
        options["timeout"] = timedelta(seconds=dist_cfg["timeout"])
    torch.distributed.init_process_group(**options)


def _replace_sync_bn(node: Any) -> int:
    """Turn every ``type='SyncBN'`` under ``node`` into BN; how many there were."""
    if isinstance(node, (list, tuple)):
        return sum(_replace_sync_bn(value) for value in node)
    if not isinstance(node, dict):
        return 0
    found = node.get("type") == "SyncBN"
    if found:
        node["type"] = "BN"
    return found + sum(_replace_sync_bn(value) for value in node.values())
