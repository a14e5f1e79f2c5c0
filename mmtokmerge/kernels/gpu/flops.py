"""What the operators multiply, told to torch's counter of operations: 1 MAC = 2 FLOPs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

FORMULAS: dict[Any, Callable[..., int]] = {}
"""FLOPs of an operator from the shapes of its arguments."""


def tell_counter() -> None:
    """Register the formulas with the counter, where it is in use."""
    counter = sys.modules.get("torch.utils.flop_counter")  # importing it takes half a second
    if counter is None or torch.compiler.is_compiling():
        return
    for operator, formula in FORMULAS.items():
        if operator not in counter.flop_registry:
            counter.register_flop_formula(operator)(formula)
        for mode in _get_current_dispatch_mode_stack():  # a counter that was opened before
            known = getattr(getattr(mode, "counter", mode), "flop_registry", None)
            if known is not None:
                known.setdefault(operator, counter.flop_registry[operator])
