"""Names in a config, checked before anything is built: unknown types, keys nobody reads."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.config import Config
from mmengine.model import BaseModule
from mmengine.registry import (
    DATASETS,
    EVALUATOR,
    FUNCTIONS,
    HOOKS,
    LOOPS,
    METRICS,
    MODELS,
    OPTIM_WRAPPERS,
    OPTIMIZERS,
    PARAM_SCHEDULERS,
    RUNNERS,
    STRATEGIES,
    TRANSFORMS,
    VISBACKENDS,
    VISUALIZERS,
    WEIGHT_INITIALIZERS,
    Registry,
)
from torch import nn

from mmtokmerge.checks import did_you_mean
from mmtokmerge.errors import InputError
from mmtokmerge.quiet import quiet_imports

SECTIONS: dict[str, Registry] = {
    "model": MODELS,
    "train_dataloader.dataset": DATASETS,
    "val_dataloader.dataset": DATASETS,
    "test_dataloader.dataset": DATASETS,
    "val_evaluator": METRICS,
    "test_evaluator": METRICS,
    "default_hooks": HOOKS,
    "custom_hooks": HOOKS,
    "optim_wrapper": OPTIM_WRAPPERS,
    "param_scheduler": PARAM_SCHEDULERS,
    "train_cfg": LOOPS,
    "val_cfg": LOOPS,
    "test_cfg": LOOPS,
    "visualizer": VISUALIZERS,
    "tta_model": MODELS,
    "strategy": STRATEGIES,
}
"""Where the runner builds from a config, and from which registry."""
NESTED: dict[str, Registry] = {
    "pipeline": TRANSFORMS,
    "transforms": TRANSFORMS,
    "optimizer": OPTIMIZERS,
    "dataset": DATASETS,
    "datasets": DATASETS,
    "vis_backends": VISBACKENDS,
}
"""Keys below which another registry is asked."""
NAMED: dict[str, Registry] = {
    "norm_cfg": MODELS,
    "act_cfg": MODELS,
    "conv_cfg": MODELS,
    "upsample_cfg": MODELS,
    "init_cfg": WEIGHT_INITIALIZERS,
    "collate_fn": FUNCTIONS,
}
"""Keys of dicts whose types are looked up and whose arguments others add to."""
PLAIN = {*NAMED, "codec", "encoder", "decoder"}
"""Keys whose types other code than these registries finds, or whose arguments it adds to."""
FREE = {"type", "_scope_", "_delete_"}
ADDED = {"optim_wrapper": {"paramwise_cfg", "constructor"}}
"""Keys that mmengine reads beside the arguments of what it builds."""
BARE = (object, nn.Module, BaseModule)
COCO_NAMES = (
    *("AP", "AP .5", "AP .75", "AP (M)", "AP (L)"),
    *("AR", "AR .5", "AR .75", "AR (M)", "AR (L)"),
)
"""What mmpose's CocoMetric reports of whole bodies' keypoints."""
IOU_NAMES = {
    "mIoU": ("aAcc", "mIoU", "mAcc"),
    "mDice": ("aAcc", "mDice", "mAcc"),
    "mFscore": ("aAcc", "mFscore", "mPrecision", "mRecall"),
}
"""What mmseg's IoUMetric reports for each of its ``iou_metrics``."""


def check_names(cfg: Config) -> None:
    """Look up every type of a config, and its arguments in what it takes.

    Raises:
        InputError: A type is in no registry, or takes no argument of a name; with the nearest name.
    """
    scope = cfg.get("default_scope", "mmseg")
    for section, registry in SECTIONS.items():
        first, *rest = section.split(".")
        node: Any = cfg.get(first)
        for part in rest:
            node = node.get(part) if isinstance(node, Mapping) else None
        for path, found, own in _dicts_with_type(node, section, registry):
            _check(path, found, own, scope)
    kind = cfg.get("runner_type")
    if kind is not None and RUNNERS.get(kind) is None:
        known = ["Runner", "FlexibleRunner", *RUNNERS.module_dict]
        raise InputError(f"runner_type={kind!r} is unknown{did_you_mean(kind, known)}")
    _check_types(cfg.to_dict(), "", scope)
    _check_train_cfg(cfg.get("train_cfg"))
    _check_save_best(cfg)


def _check_train_cfg(train_cfg: Any) -> None:
    """Refuse an unknown key where ``train_cfg`` names no loop, and mmengine takes its own."""
    if not isinstance(train_cfg, Mapping) or "type" in train_cfg:
        return
    loop = "EpochBasedTrainLoop" if train_cfg.get("by_epoch") else "IterBasedTrainLoop"
    allowed = {*(_arguments(LOOPS.get(loop)) or ()), "by_epoch"}
    for key in train_cfg:
        if key not in allowed and key not in FREE:
            hint = did_you_mean(key, allowed)
            raise InputError(f"train_cfg.{key} is unknown to {loop}{hint}")


def _check_save_best(cfg: Config) -> None:
    """Refuse a ``save_best`` that mmseg's metric will not report, before anything is trained."""
    hook = (cfg.get("default_hooks") or {}).get("checkpoint") or {}
    wanted = hook.get("save_best") if isinstance(hook, Mapping) else None
    evaluator = cfg.get("val_evaluator")
    evaluators = evaluator if isinstance(evaluator, (list, tuple)) else [evaluator]
    allowed = {"auto"}
    for each in evaluators:
        kind = str(each.get("type")) if isinstance(each, Mapping) else ""
        if kind.endswith("BoxPCK"):
            marks = each.get("thresholds", (0.1, 0.05))
            allowed |= {*(f"PCK@{mark:g}" for mark in marks), "mean_error"}
            continue
        if kind.split(".")[-1] == "CocoMetric":
            allowed |= {f"{each.get('prefix') or 'coco'}/{name}" for name in COCO_NAMES}
            continue
        if not kind.endswith("IoUMetric"):
            return
        prefix = f"{each['prefix']}/" if each.get("prefix") else ""
        for metric in each.get("iou_metrics") or ("mIoU",):
            allowed |= {prefix + name for name in IOU_NAMES.get(metric, (metric,))}
        if each.get("small_classes"):
            allowed |= {f"{prefix}mIoU_small"}
    for name in [wanted] if isinstance(wanted, str) else wanted or ():
        if name not in allowed:
            raise InputError(
                f"default_hooks.checkpoint.save_best={name!r} is not reported by val_evaluator, "
                f"which gives {', '.join(sorted(allowed - {'auto'}))}{did_you_mean(name, allowed)}"
            )


def _dicts_with_type(
    node: Any, path: str, registry: Registry
) -> Iterator[tuple[str, Mapping[str, Any], Registry]]:
    if isinstance(node, (list, tuple)):
        for index, each in enumerate(node):
            yield from _dicts_with_type(each, f"{path}.{index}", registry)
    elif isinstance(node, Mapping):
        if "type" in node:
            yield path, node, registry
        for key, each in node.items():
            if key not in PLAIN:
                yield from _dicts_with_type(each, f"{path}.{key}", NESTED.get(key, registry))


def _check_types(node: Any, path: str, scope: str) -> None:
    """Look up the types of a config's norms, activations, collate functions and so on."""
    if isinstance(node, (list, tuple)):
        for index, each in enumerate(node):
            _check_types(each, f"{path}.{index}", scope)
    elif isinstance(node, Mapping):
        for key, each in node.items():
            where = f"{path}.{key}".lstrip(".")
            for found in each if isinstance(each, (list, tuple)) else [each]:
                if (
                    key in NAMED
                    and isinstance(found, Mapping)
                    and isinstance(found.get("type"), str)
                ):
                    _made(found["type"], where, NAMED[key], scope)
            _check_types(each, where, scope)


def _check(path: str, found: Mapping[str, Any], registry: Registry, scope: str) -> None:
    kind = found["type"]
    made = _made(kind, path, registry, scope) if isinstance(kind, str) else kind
    allowed = _arguments(made)
    if allowed is None:
        return
    for key in found:
        if key not in allowed and key not in FREE | ADDED.get(path, set()):
            name = kind if isinstance(kind, str) else getattr(kind, "__name__", repr(kind))
            hint = did_you_mean(key, allowed) or f"; it takes {', '.join(sorted(allowed))}"
            raise InputError(f"{path}.{key} is unknown to {name}{hint}")


def _made(kind: str, path: str, registry: Registry, scope: str) -> Any:
    """The class or function of a type's name."""
    made = _look_up(kind, registry, scope)
    if made is None and registry is METRICS:
        made = _look_up(kind, EVALUATOR, scope)
    if made is None:
        names = sorted(_names(registry, scope))
        hint = did_you_mean(kind, names) or did_you_mean(kind.split(".")[-1], names)
        raise InputError(f"{path}.type={kind!r} is no registered {registry.name}{hint}")
    return made


def _look_up(kind: str, registry: Registry, scope: str) -> Any:
    # The first look imports the packages, which print what they could not import.
    with registry.switch_scope_and_registry(scope) as scoped, quiet_imports():
        found = scoped.get(kind)
    return found if found is not None else registry.get(kind)


def _names(registry: Registry, scope: str) -> set[str]:
    names = set(registry.module_dict)
    for child_scope, child in registry.children.items():
        prefix = "" if child_scope == scope else f"{child_scope}."
        names |= {prefix + name for name in child.module_dict}
    return names


def _arguments(made: Any) -> set[str] | None:
    """The names of all arguments that a class or function takes; None where that is not known."""
    if not inspect.isclass(made):
        return _of(made)[0] if callable(made) and not _of(made)[1] else None
    names: set[str] = set()
    for base in made.__mro__:
        if "__init__" not in vars(base):
            continue
        if names and base in BARE:  # what else the subclass takes goes elsewhere
            return None
        own, takes_more = _of(vars(base)["__init__"])
        names |= own
        if not takes_more:
            return names
    return None


def _of(function: Any) -> tuple[set[str], bool]:
    """The names of a function's arguments, and whether it takes any others."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return set(), True
    names = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    return names - {"self"}, any(p.kind is p.VAR_KEYWORD for p in parameters)
