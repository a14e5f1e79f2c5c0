"""Other merging for a while: one way to turn it off, or to another setting, for every backbone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn

from mmtokmerge.errors import InputTypeError
from mmtokmerge.layers.reducers import ThresholdReducer, ToMe
from mmtokmerge.merging import StageMerging, read_merging
from mmtokmerge.models.backbones import MiTPlusPlus, VisionTransformer
from mmtokmerge.models.policies import TokenSharing

THRESHOLD, NUM_MERGED, NUM_SHARED = "threshold", "num_merged", "num_shared"
REDUCERS_WITH = {THRESHOLD: ThresholdReducer, NUM_MERGED: ToMe}


@contextmanager
def without_merging(model: nn.Module) -> Iterator[None]:
    """While open, nothing in ``model`` merges or shares tokens: the baseline of its own weights."""
    with ExitStack() as stack:
        for module in model.modules():
            if isinstance(module, VisionTransformer):
                stack.enter_context(_attribute(module, "merges", False))
            elif isinstance(module, MiTPlusPlus):
                stack.enter_context(_stages(module, read_merging("none")))
        yield


@contextmanager
def merging_as(
    model: nn.Module, setting: str | Sequence[Any] | Mapping[str, float]
) -> Iterator[None]:
    """While open, ``model`` merges another way; afterwards it is as it was, also after an error.

    Args:
        model: A backbone, or what holds one.
        setting: For a MiT++ a preset's name, four stage dicts or four ``StageMerging``; of a plain
            ViT ``threshold``, ``num_merged`` or ``num_shared``, which all of its reducers or its
            sharing then have.

    Raises:
        InputTypeError: The setting is not of this kind of backbone.
    """
    with ExitStack() as stack:
        for module in model.modules():
            if isinstance(module, MiTPlusPlus):
                if isinstance(setting, Mapping):
                    raise InputTypeError(f"a MiT++ takes a preset or four stages, got {setting!r}")
                stack.enter_context(_stages(module, _read_stages(setting)))
            elif isinstance(module, VisionTransformer):
                if not isinstance(setting, Mapping):
                    raise InputTypeError(f"a plain ViT takes a dict such as threshold: {setting!r}")
                for name, value in setting.items():
                    _override_vit(stack, module, name, value)
        yield


def reducers_with(backbone: Any, name: str) -> list[Any]:
    """The reducers of a plain ViT that have a 'threshold' or a 'num_merged'."""
    return [each for each in backbone.reducers if isinstance(each, REDUCERS_WITH[name])]


def _override_vit(stack: ExitStack, backbone: Any, name: str, value: Any) -> None:
    if name == NUM_SHARED:
        sharing: TokenSharing = backbone.sharing
        stack.enter_context(_attribute(sharing, "num_shared", value))
        stack.enter_context(_attribute(sharing, "threshold", None))
        return
    for reducer in reducers_with(backbone, name):
        before = float(reducer.tau) if name == THRESHOLD else reducer.num_merged
        stack.enter_context(_attribute(reducer, name, value, before))


def _read_stages(setting: Any) -> list[StageMerging]:
    if not isinstance(setting, str) and all(isinstance(each, StageMerging) for each in setting):
        return list(setting)
    return read_merging(setting)


@contextmanager
def _stages(backbone: MiTPlusPlus, merging: Sequence[StageMerging]) -> Iterator[None]:
    before = backbone.merging
    backbone.merging = list(merging)
    try:
        yield
    finally:
        backbone.merging = before


_UNKNOWN = object()


@contextmanager
def _attribute(owner: Any, name: str, value: Any, before: Any = _UNKNOWN) -> Iterator[None]:
    before = getattr(owner, name) if before is _UNKNOWN else before
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)
