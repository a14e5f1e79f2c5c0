"""``mmtokmerge.apply``, ``remove`` and ``calibrate``: merging in a model that another built."""

from __future__ import annotations

from typing import Any

from torch import nn

from mmtokmerge.adapters import mit_mmseg, mit_smp, mit_transformers
from mmtokmerge.adapters.base import give_all_back, kind_of
from mmtokmerge.adapters.report import Report
from mmtokmerge.adapters.segformer_heads import change_heads
from mmtokmerge.errors import InputTypeError

KNOWN = (
    "SegFormer and GLPN of transformers 4 and 5",
    "mit_b0 to mit_b5 of segmentation_models_pytorch",
    "MixVisionTransformer of mmseg",
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
    report = _apply(model, merging, proportional)
    change_heads(model, report)
    return report


def _apply(model: nn.Module, merging: Any, proportional: bool | None) -> Report:
    for path, module in model.named_modules():
        kind = kind_of(module)
        if mit_transformers.is_encoder(module):
            return mit_transformers.apply_to(module, path, merging, proportional)
        if kind in mit_mmseg.ENCODERS:
            return mit_mmseg.apply_to(module, path, merging, proportional)
        if kind in mit_smp.ENCODERS:
            return mit_smp.apply_to(module, path, merging, proportional)
    raise InputTypeError(
        f"mmtokmerge.apply knows no encoder in a {type(model).__name__}; known are: "
        + "; ".join(KNOWN)
    )


def remove(model: nn.Module) -> nn.Module:
    """Give the host's modules back; returns ``model``, which is as it was."""
    give_all_back(model)
    return model
