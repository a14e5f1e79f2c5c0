"""Refuses to train or test a model with weights that are not its own."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import Hook
from mmengine.model import BaseTTAModel, is_model_wrapper
from torch import nn

from mmtokmerge.models.weights.fit import fit_weights, say_notes
from mmtokmerge.registry import HOOKS


@HOOKS.register_module()
class StrictLoadHook(Hook):
    """Raises InputError where a checkpoint's weights do not fit the model.

    Weights of a module that the model does not have at all, such as an auxiliary head that only
    training uses, are no error; neither are thresholds of reducers that the config gives numbers.
    Known prefixes and layouts are renamed, see :func:`mmtokmerge.models.weights.fit.fit_weights`.

    Args:
        training: The weights are what a training begins with, so a head may be missing or of
            another number of classes; a resumed run needs all of its weights in any case.
    """

    priority = "LOWEST"

    def __init__(self, training: bool = False) -> None:
        self.training = training

    def after_load_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """Put what fits in the place of what was read, before mmengine copies it."""
        model = bare_model(runner.model)
        name = getattr(runner, "_load_from", None) or runner.cfg.get("load_from")
        training = self.training and not getattr(runner, "_resume", False)
        fitted = fit_weights(model, checkpoint, name, training=training)
        say_notes(fitted)
        if "state_dict" not in checkpoint:
            checkpoint.clear()
        checkpoint["state_dict"] = fitted.weights


def check_weights(model: nn.Module, checkpoint: Any, name: str | None) -> None:
    """Raise InputError unless ``checkpoint`` holds every weight of ``model`` in its shape.

    Args:
        model: The bare model.
        checkpoint: A state dict, or a dict that holds one under ``state_dict``.
        name: What the sentence calls the checkpoint: its path.
    """
    fit_weights(model, checkpoint, str(name))


def bare_model(model: nn.Module) -> nn.Module:
    """The model without what data parallelism and test-time augmentation wrap around it."""
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model
