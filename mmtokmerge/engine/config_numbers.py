"""Numbers and switches in a config that code takes in silence and that spoil what it computes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from mmtokmerge.checks import is_number, one_of
from mmtokmerge.errors import InputError

SWITCHES = (
    *("randomness.deterministic", "randomness.diff_rank_seed", "resume", "auto_scale_lr.enable"),
    *("optim_wrapper.paramwise_cfg.bypass_duplicate", "default_hooks.visualization.draw"),
    *("default_hooks.visualization.show", "model.decode_head.align_corners"),
    *("model.backbone.with_cp", "env_cfg.cudnn_benchmark"),
)
"""Keys that are True or False; any other word is true to Python."""
BACKENDS = ("nccl", "gloo", "mpi", "hccl", "cncl", "mccl", "xccl", "smddp", "ucc")
LAUNCHERS = ("none", "pytorch", "slurm", "mpi", "k8s")
IOU_METRICS = ("mIoU", "mDice", "mFscore")


def check_numbers(config: Mapping[str, Any]) -> None:
    """Look at numbers that are none, or that take a training's or an image's sense away.

    Args:
        config: A whole config as plain dicts.

    Raises:
        InputError: A value cannot be meant; with its key, what it was and what is allowed.
    """
    for path, value in leaves(config, ""):
        if isinstance(value, float) and math.isnan(value):
            raise InputError(f"{path} is nan, which is no number")
        _check_leaf(path, value)
    for path in SWITCHES:
        value = at(config, path)
        if value is not None and not isinstance(value, bool):
            raise InputError(f"{path} must be True or False, got {value!r}")
    backend = at(config, "env_cfg.dist_cfg.backend")
    if isinstance(backend, str):  # 'nccl', or 'cpu:gloo,cuda:nccl'
        for each in backend.split(","):
            one_of("env_cfg.dist_cfg.backend", each.rpartition(":")[2], BACKENDS)
    if config.get("launcher") is not None:
        one_of("launcher", config["launcher"], LAUNCHERS)
    _check_preprocessor(at(config, "model.data_preprocessor") or {})
    _check_heads(config)
    _check_windows(at(config, "model.test_cfg") or {})
    kept = at(config, "default_hooks.checkpoint.max_keep_ckpts")
    if kept is not None and (type(kept) is not int or kept == 0 or kept < -1):
        raise InputError(
            "default_hooks.checkpoint.max_keep_ckpts must be a whole number from 1 on, or -1 for "
            f"all, got {kept!r}"
        )
    norm = at(config, "optim_wrapper.clip_grad.max_norm")
    if norm is not None and (not is_number(norm) or not norm > 0):
        raise InputError(f"optim_wrapper.clip_grad.max_norm must be above 0, got {norm!r}")
    for name in ("val_evaluator", "test_evaluator"):
        found = config.get(name)
        for each in found if isinstance(found, (list, tuple)) else [found]:
            if isinstance(each, Mapping) and str(each.get("type", "")).endswith("IoUMetric"):
                metrics = each.get("iou_metrics", IOU_METRICS[:1])
                for metric in [metrics] if isinstance(metrics, str) else metrics:
                    one_of(f"{name}.iou_metrics", metric, IOU_METRICS)


def _check_leaf(path: str, value: Any) -> None:
    *ahead, name = path.split(".")
    if name.endswith(("lr_mult", "decay_mult")) and (
        not is_number(value) or not 0 <= value < math.inf
    ):
        raise InputError(f"{path} must be a number from 0 on, got {value!r}")
    if name == "eps" and "norm_cfg" in ahead and (not is_number(value) or not 0 < value < 1):
        raise InputError(f"{path} must be above 0 and below 1, got {value!r}")
    if name == "start_factor" and (not is_number(value) or not 0 < value <= 1):
        raise InputError(f"{path} must be above 0, at most 1, got {value!r}")
    if name == "loss_weight" and (not is_number(value) or not math.isfinite(value)):
        raise InputError(f"{path} must be a number, got {value!r}")


def _check_preprocessor(settings: Any) -> None:
    if not isinstance(settings, Mapping):
        return
    for name in ("mean", "std"):
        values = settings.get(name)
        if not isinstance(values, (list, tuple)):
            continue
        for value in values:
            if not is_number(value) or not math.isfinite(value):
                raise InputError(f"model.data_preprocessor.{name} must be numbers, got {values!r}")
            if name == "std" and value <= 0:
                raise InputError(f"model.data_preprocessor.std must be above 0, got {values!r}")


def _check_heads(config: Mapping[str, Any]) -> None:
    """A weight for each class, and some of them above 0."""
    for part in ("decode_head", "auxiliary_head"):
        found = at(config, f"model.{part}")
        for head in found if isinstance(found, (list, tuple)) else [found]:
            if not isinstance(head, Mapping):
                continue
            losses = head.get("loss_decode")
            for loss in losses if isinstance(losses, (list, tuple)) else [losses]:
                weights = loss.get("class_weight") if isinstance(loss, Mapping) else None
                if isinstance(weights, (list, tuple)):
                    outputs = head.get("out_channels") or head.get("num_classes")
                    _check_class_weights(f"model.{part}", outputs, weights)


def _check_class_weights(part: str, classes: Any, weights: Any) -> None:
    where = f"{part}.loss_decode.class_weight"
    if isinstance(classes, int) and len(weights) not in (classes, 0):
        raise InputError(
            f"{where} has {len(weights)} numbers, but {part} has {classes} classes: a weight for "
            "each"
        )
    if not all(is_number(each) and 0 <= each < math.inf for each in weights) or not any(weights):
        raise InputError(f"{where} must be numbers from 0 on, not all 0, got {weights!r}")


def _check_windows(test_cfg: Any) -> None:
    if not isinstance(test_cfg, Mapping) or test_cfg.get("mode") != "slide":
        return
    crop, stride = test_cfg.get("crop_size"), test_cfg.get("stride")
    if all(isinstance(each, (list, tuple)) and len(each) == 2 for each in (crop, stride)) and any(
        step > side for step, side in zip(stride, crop)
    ):
        raise InputError(
            f"model.test_cfg.stride={stride!r} must not exceed crop_size={crop!r}: windows would "
            "leave pixels out"
        )


def at(config: Any, path: str) -> Any:
    """What stands at a dotted path; None where a part of it is not there."""
    node = config
    for part in path.split("."):
        node = node.get(part) if isinstance(node, Mapping) else None
    return node


def leaves(node: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Every value of a config that holds no others, with its dotted path."""
    if isinstance(node, Mapping):
        items: Any = node.items()
    elif isinstance(node, (list, tuple)):
        items = enumerate(node)
    else:
        yield path, node
        return
    for key, value in items:
        yield from leaves(value, f"{path}.{key}".lstrip("."))
