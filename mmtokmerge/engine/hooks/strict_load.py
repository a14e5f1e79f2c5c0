"""Refuses to test a model with weights that are not its own."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from mmengine.hooks import Hook
from mmengine.model import BaseTTAModel, is_model_wrapper
from torch import Tensor, nn

from mmtokmerge.errors import InputError
from mmtokmerge.registry import HOOKS

_SHOWN = 5


@HOOKS.register_module()
class StrictLoadHook(Hook):
    """Raises InputError where a checkpoint's weights do not fit the model.

    Weights of a module that the model does not have at all, such as an auxiliary head that only
    training uses, are no error; neither are thresholds of reducers that the config gives numbers.
    """

    priority = "LOWEST"

    def after_load_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """Compare names and shapes before mmengine copies what fits."""
        check_weights(bare_model(runner.model), checkpoint, runner.cfg.get("load_from"))


def bare_model(model: nn.Module) -> nn.Module:
    """The model without what data parallelism and test-time augmentation wrap around it."""
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model


def check_weights(model: nn.Module, checkpoint: Mapping[str, Any], name: str | None) -> None:
    """Raise InputError unless ``checkpoint`` holds every weight of ``model`` in its shape.

    Args:
        model: The bare model.
        checkpoint: A state dict, or a dict that holds one under ``state_dict``.
        name: What the sentence calls the checkpoint: its path.
    """
    weights = checkpoint.get("state_dict", checkpoint)
    found = {re.sub(r"^module\.", "", key): value for key, value in weights.items()}
    wanted = model.state_dict()
    uncalibrated = [key for key in wanted if _is_threshold(key) and key not in found]
    if uncalibrated:
        raise InputError(
            f"The checkpoint {name} holds no threshold for {', '.join(uncalibrated)}, which the "
            "config leaves to 'auto': run tools/calibrate_threshold.py with this config and "
            "checkpoint and use the checkpoint that it writes, or give a number as threshold."
        )
    problems = [f"{key} is missing" for key in wanted if key not in found and _counts(key)]
    problems += [
        f"{key} is {_shape(found[key])} where the model has {_shape(value)}"
        for key, value in wanted.items()
        if key in found and _shape(found[key]) != _shape(value)
    ]
    modules = {key.split(".")[0] for key in wanted}
    problems += [
        f"{key} is not in the model"
        for key in found
        if key not in wanted
        and key.split(".")[0] in modules
        and _counts(key)
        and not _is_threshold(key)
    ]
    if problems:
        more = f" and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise InputError(
            f"The checkpoint {name} does not fit the config's model: "
            f"{'; '.join(problems[:_SHOWN])}{more}."
        )


def _counts(key: str) -> bool:
    """Whether a weight matters at inference; older checkpoints lack BatchNorm's counters."""
    return not key.endswith("num_batches_tracked")


def _is_threshold(key: str) -> bool:
    """Whether a key names what ``threshold='auto'`` of a reducer keeps."""
    return re.search(r"(^|\.)reducers\.\d+\.tau$", key) is not None


def _shape(value: Any) -> tuple[int, ...]:
    return tuple(value.shape) if isinstance(value, Tensor) else ()
