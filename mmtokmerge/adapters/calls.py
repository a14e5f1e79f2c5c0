"""``mmtokmerge.apply`` and ``mmtokmerge.remove``: merging put into a model, and taken off again."""

from __future__ import annotations

from typing import Any

from torch import nn

from mmtokmerge.adapters import segformer
from mmtokmerge.adapters.base import HostModule, Report
from mmtokmerge.errors import InputTypeError

KNOWN = (
    "SegFormer of transformers 4 (SegformerModel and what holds one)",
    "mmseg's MixVisionTransformer, by itself or inside a segmentor",
)


def apply(model: nn.Module, merging: Any = "hq", *, proportional: bool | None = None) -> Report:
    """Merge tokens in a model that another package built, in place.

    State dict, ``save_pretrained`` and the outputs' types stay as they are. A model that merging
    was put into before gets the new setting instead.

    Args:
        model: A model of one of the known hosts, or one that holds such an encoder.
        merging: 'none' (faster exact kernels alone), 'hq', 'fast', 'n2d', 'plus', or four stage
            dicts, as :class:`mmtokmerge.MiTPlusPlus` takes them.
        proportional: Merged keys weigh by the log of their size; None leaves it as the stages say.

    Returns:
        Which layers were changed and how many tokens each keeps; it prints as a table.

    Raises:
        TypeError: No adapter knows the model.
        ValueError: A setting is wrong.
    """
    remove(model)
    for path, module in model.named_modules():
        if segformer.is_host(module):
            return segformer.apply_to(model, module, path, merging, proportional)
    known = "; ".join(KNOWN)
    raise InputTypeError(
        f"mmtokmerge.apply knows no encoder in a {type(model).__name__}; known are: {known}"
    )


def remove(model: nn.Module) -> nn.Module:
    """Give the host's modules back; returns ``model``, which is as it was."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, HostModule):
                setattr(parent, name, child.give_back())
    return model
