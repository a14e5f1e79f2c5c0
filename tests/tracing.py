"""What a model's last forward pass merged, for tests that build it by a helper of their own."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TypeVar
from weakref import WeakKeyDictionary

from torch import nn

from mmtokmerge.merging.trace import Trace, trace

M = TypeVar("M", bound=nn.Module)
_stack = ExitStack()
_traces: WeakKeyDictionary[nn.Module, Trace] = WeakKeyDictionary()


def follow(model: M) -> M:
    """Trace a model until the test ends."""
    _traces[model] = _stack.enter_context(trace(model))
    return model


def ended(model: nn.Module) -> Trace:
    """What the forward passes of a followed model merged."""
    return _traces[model]


def stop() -> None:
    """Close the traces of a test."""
    _stack.close()
