"""Values in a config that would be taken in silence and do nothing, or not what they say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.config import Config

from mmtokmerge.checks import did_you_mean, one_of
from mmtokmerge.engine.config_numbers import check_numbers
from mmtokmerge.errors import InputError

KEYS = {
    "auto_scale_lr": {"enable", "base_batch_size"},
    "env_cfg": {"cudnn_benchmark", "mp_cfg", "dist_cfg", "resource_limit"},
    "env_cfg.mp_cfg": {"mp_start_method", "opencv_num_threads"},
    "optim_wrapper.paramwise_cfg": {
        *("custom_keys", "bias_lr_mult", "bias_decay_mult", "norm_decay_mult", "flat_decay_mult"),
        *("dwconv_decay_mult", "dcn_offset_lr_mult", "bypass_duplicate"),
    },
    "randomness": {"seed", "deterministic", "diff_rank_seed"},
}
"""Dicts that mmengine reads key by key, and what it knows in each."""
MULTIPLIERS = {"lr_mult", "decay_mult"}
POSITIVE = (
    *("train_cfg.max_iters", "train_cfg.max_epochs", "train_cfg.val_interval"),
    *("default_hooks.logger.interval", "auto_scale_lr.base_batch_size"),
    *("optim_wrapper.accumulative_counts", "train_dataloader.batch_size"),
    *("val_dataloader.batch_size", "test_dataloader.batch_size"),
    *("model.decode_head.num_classes", "model.decode_head.channels", "model.head.out_channels"),
)
"""Whole numbers from 1 on."""
POSE_TEST = {
    *("flip_test", "flip_mode", "shift_heatmap", "shift_coords", "output_heatmaps"),
    *("output_keypoint_indices", "keypoint_dims", "nms_pre", "score_thr", "nms_thr"),
}
FLIP_MODES = ("heatmap", "udp_combined", "offset")
DATA_MODES = ("topdown", "bottomup")
MODES = ("whole", "slide")
LEVELS = ("DEBUG", "INFO", "WARNING", "WARN", "ERROR", "CRITICAL", "FATAL", "NOTSET")
LOADERS = ("train_dataloader", "val_dataloader", "test_dataloader")


def check_values(cfg: Config) -> None:
    """Look at the values that nothing else looks at.

    Raises:
        InputError: A value is none that is allowed; with the key, what it was and what is allowed.
    """
    check_numbers(cfg.to_dict())
    for path, allowed in KEYS.items():
        if path == "optim_wrapper.paramwise_cfg" and _at(cfg, "optim_wrapper.constructor"):
            continue  # another constructor reads other keys
        _check_keys(path, _at(cfg, path), allowed)
    _check_multipliers(cfg)
    for path in POSITIVE:
        _check_positive(path, _at(cfg, path))
    interval = _at(cfg, "default_hooks.checkpoint.interval")
    if interval is not None and interval != -1:
        _check_positive("default_hooks.checkpoint.interval", interval, " or -1, which saves none")
    for path, value in _by_epochs(cfg.to_dict(), ""):
        if not isinstance(value, bool):
            raise InputError(f"{path} must be True or False, got {value!r}")
    size = _at(cfg, "model.data_preprocessor.size")
    if size is not None and not _is_pair(size):
        raise InputError(
            f"model.data_preprocessor.size must be (height, width) in pixels, got {size!r}"
        )
    for path in ("model.train_cfg", "model.test_cfg"):
        value = _at(cfg, path)
        if value is not None and not isinstance(value, Mapping):
            raise InputError(f"{path} must be a dict or None, got {value!r}")
    for path in ("model", "model.backbone", "model.decode_head", "model.head"):
        _check_part(cfg, path)
    _check_whole_or_slide(_at(cfg, "model.test_cfg") or {})
    for name in LOADERS:
        if cfg.get(name) is not None:
            _check_part(cfg, name)
            _check_part(cfg, f"{name}.dataset")
            _check_prefix(f"{name}.dataset", cfg[name].get("dataset") or {})
    seed = _at(cfg, "randomness.seed")
    if seed is not None and (type(seed) is not int or seed < 0):
        raise InputError(f"randomness.seed must be a whole number from 0 on or None, got {seed!r}")
    level = cfg.get("log_level", "INFO")
    if not isinstance(level, int):
        one_of("log_level", level, LEVELS)
    best = _at(cfg, "default_hooks.checkpoint.save_best")
    names = best if isinstance(best, (list, tuple)) else [best]
    if best is not None and not all(isinstance(each, str) for each in names):
        raise InputError(
            f"default_hooks.checkpoint.save_best must name a metric, 'auto' or None, got {best!r}"
        )
    if cfg.get("default_scope") == "mmpose":
        _check_pose(cfg)


def _check_part(cfg: Config, path: str) -> None:
    """Refuse what is no dict where a config has this part."""
    *holder, last = path.split(".")
    node = _at(cfg, ".".join(holder)) if holder else cfg
    if node is not None and last in node and not isinstance(node[last], (Mapping, list, tuple)):
        raise InputError(f"{path} must be a dict with a type, got {node[last]!r}")


def _check_whole_or_slide(test_cfg: Mapping[str, Any]) -> None:
    mode = test_cfg.get("mode")
    if mode is not None:
        one_of("model.test_cfg.mode", mode, MODES)
    if mode == "slide":
        for key in ("crop_size", "stride"):
            if not _is_pair(test_cfg.get(key)):
                raise InputError(
                    f"model.test_cfg.mode='slide' needs {key}=(height, width) in pixels, got "
                    f"{test_cfg.get(key)!r}"
                )


def _check_keys(path: str, found: Any, allowed: set[str]) -> None:
    if found is None:
        return
    if not isinstance(found, Mapping):
        raise InputError(f"{path} must be a dict, got {found!r}")
    for key in found:
        if key not in allowed and key != "_delete_":
            hint = did_you_mean(key, allowed) or f"; it takes {', '.join(sorted(allowed))}"
            raise InputError(f"{path}.{key} is unknown to mmengine{hint}")


def _check_multipliers(cfg: Config) -> None:
    keys = _at(cfg, "optim_wrapper.paramwise_cfg.custom_keys")
    if not isinstance(keys, Mapping) or _at(cfg, "optim_wrapper.constructor"):
        return
    for name, found in keys.items():
        _check_keys(f"optim_wrapper.paramwise_cfg.custom_keys.{name}", found, MULTIPLIERS)


def _check_positive(path: str, value: Any, more: str = "") -> None:
    if value is None:
        return
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InputError(f"{path} must be a whole number from 1 on{more}, got {value!r}")


def _check_prefix(path: str, dataset: Mapping[str, Any]) -> None:
    """Refuse a key of ``data_prefix`` that neither mmseg's nor mmpose's data sets read."""
    prefix = dataset.get("data_prefix")
    allowed = {"img_path", "seg_map_path", "depth_map_path", "img"}
    if isinstance(prefix, Mapping):
        for key in prefix:
            if key not in allowed and did_you_mean(key, allowed):
                raise InputError(f"{path}.data_prefix.{key} is unknown{did_you_mean(key, allowed)}")
    mode = dataset.get("data_mode")
    if mode is not None:
        one_of(f"{path}.data_mode", mode, DATA_MODES)
    if "dataset" in dataset:
        inner = dataset["dataset"]
        if not isinstance(inner, Mapping):
            raise InputError(f"{path}.dataset must be a dict with a type, got {inner!r}")
        _check_prefix(f"{path}.dataset", inner)


def _check_pose(cfg: Config) -> None:
    test_cfg = _at(cfg, "model.test_cfg") or {}
    if _at(cfg, "model.type") == "TopdownPoseEstimator":
        _check_keys("model.test_cfg", test_cfg, POSE_TEST)
    mode = test_cfg.get("flip_mode")
    if mode is not None:
        one_of("model.test_cfg.flip_mode", mode, FLIP_MODES)
    picked = test_cfg.get("output_keypoint_indices")
    if picked is not None:
        whole = isinstance(picked, (list, tuple)) and all(type(each) is int for each in picked)
        if not whole or len(set(picked)) < len(picked):
            raise InputError(
                "model.test_cfg.output_keypoint_indices must list keypoints, each once, got "
                f"{picked!r}"
            )
    decoder = _at(cfg, "model.head.decoder")
    if not isinstance(decoder, Mapping):
        return
    for name in LOADERS:
        for step in _at(cfg, f"{name}.dataset.pipeline") or ():
            encoder = step.get("encoder") if isinstance(step, Mapping) else None
            if isinstance(encoder, Mapping) and encoder.get("type") != decoder.get("type"):
                raise InputError(
                    f"{name}'s GenerateTarget encodes with {encoder.get('type')!r}, but "
                    f"model.head.decoder decodes {decoder.get('type')!r}: give both one codec"
                )


def _at(cfg: Any, path: str) -> Any:
    node = cfg
    for part in path.split("."):
        node = node.get(part) if isinstance(node, (Mapping, Config)) else None
    return node


def _by_epochs(node: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Every ``by_epoch`` of a config."""
    items = node.items() if isinstance(node, Mapping) else ()
    if isinstance(node, (list, tuple)):
        items = enumerate(node)
    for key, value in items:
        where = f"{path}.{key}".lstrip(".")
        if key == "by_epoch":
            yield where, value
        else:
            yield from _by_epochs(value, where)


def _is_pair(size: Any) -> bool:
    return (
        isinstance(size, (list, tuple))
        and len(size) == 2
        and all(type(side) is int and side > 0 for side in size)
    )
