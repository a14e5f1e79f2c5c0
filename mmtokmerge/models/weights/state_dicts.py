"""The weights in what a checkpoint holds: found under whatever key, and plain finite numbers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor

from mmtokmerge.errors import InputError
from mmtokmerge.models.weights.rename import list_some

CONTAINERS = (
    *("state_dict", "model_state_dict", "model", "module", "teacher", "net", "network", "weights"),
    *("params", "ema_state_dict", "state_dict_ema", "model_ema", "checkpoint"),
)
"""Under which keys the checkpoints of mmengine, Facebook, timm and others hold their weights."""
_THRESHOLD = re.compile(r"(^|\.)reducers\.\d+\.tau$")


def state_dict_of(content: Any, name: str) -> dict[str, Tensor]:
    """The weights that a checkpoint holds.

    Raises:
        InputError: It holds none, something that is no tensor, or values that are not finite.
    """
    if not isinstance(content, Mapping):
        raise InputError(f"{name} holds no weights, but a value of type {type(content).__name__}.")
    found: Any = content
    for _ in range(2):  # {'checkpoint': {'model': ...}} and the like
        inner = [key for key in CONTAINERS if isinstance(found.get(key), Mapping) and found[key]]
        if not inner or any(isinstance(value, Tensor) for value in found.values()):
            break
        if "student" in found and inner[0] == "teacher":
            print_log(f"{name} holds a student and a teacher: the teacher is taken.", "current")
        found = found[inner[0]]
    if not found or all(found.get(key) == {} for key in found):
        raise InputError(f"{name} holds no weights: it is empty.")
    for key, value in found.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise InputError(
                f"{name} holds no state dict: {key!r} is of type {type(value).__name__}, not a "
                "tensor."
            )
    for key, value in found.items():
        _refuse_kind(key, value, name)
    broken = [
        key
        for key, value in found.items()
        if value.is_floating_point() and not is_threshold(key) and not _is_finite(value)
    ]
    if broken:
        raise InputError(f"{name} holds values that are not finite, in {list_some(broken)}.")
    return dict(found)


def is_threshold(key: str) -> bool:
    """Whether a key names what ``threshold='auto'`` of a reducer keeps."""
    return _THRESHOLD.search(key) is not None


def _refuse_kind(key: str, value: Tensor, name: str) -> None:
    """Refuse tensors that hold no plain numbers.

    Raises:
        InputError: A tensor is quantized, sparse, without values, or of a type that none trains in.
    """
    what = ""
    if value.is_meta:
        what = "has a shape and no values (it is on torch's meta device)"
    elif value.layout != torch.strided:
        what = f"is stored as {value.layout}"
    elif value.is_quantized:
        what = f"is quantized, {value.dtype}"
    elif value.is_complex():
        what = f"is of complex numbers, {value.dtype}"
    elif value.is_floating_point() and value.element_size() < 2:
        what = f"is of type {value.dtype}"
    if what:
        raise InputError(f"{name}: {key} {what}: weights of plain floats are needed.")


def _is_finite(value: Tensor) -> bool:
    return bool(torch.isfinite(value).all())
