"""Checks of settings, each with one sentence: which key, what it was, what is allowed."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Sequence
from typing import Any, TypeGuard

from mmtokmerge.errors import InputError, InputTypeError


def one_of(name: str, value: Any, allowed: Sequence[Any]) -> Any:
    """``value``, if it is one of ``allowed``.

    Raises:
        InputError: It is not.
    """
    if not any(value is each or (type(value) is type(each) and value == each) for each in allowed):
        raise InputError(
            f"{name}={value!r} is unknown, allowed are {', '.join(map(repr, allowed))}"
            + did_you_mean(value, allowed)
        )
    return value


def is_whole(value: Any) -> TypeGuard[int]:
    """Whether ``value`` is an int; a bool is none."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> TypeGuard[int | float]:
    """Whether ``value`` is an int or a float; a bool is none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def whole_number(name: str, value: Any, least: int = 0) -> int:
    """``value``, if it is an int of at least ``least``; a bool is none.

    Raises:
        InputTypeError: It is no int.
        InputError: It is too small.
    """
    if not is_whole(value):
        raise InputTypeError(f"{name} must be an int, got {value!r}")
    if value < least:
        raise InputError(f"{name} must be at least {least}, got {value}")
    return value


def number_in(name: str, value: Any, low: float, high: float, *, below: bool = False) -> float:
    """``value``, if it is a number from ``low`` to ``high``, which ``below`` leaves out.

    Raises:
        InputTypeError: It is no number.
        InputError: It is out of range, or not a number (nan).
    """
    if not is_number(value):
        raise InputTypeError(f"{name} must be a number, got {value!r}")
    if math.isnan(value) or not low <= value <= high or (below and value == high):
        end = f"up to but not including {high:g}" if below else f"to {high:g}"
        raise InputError(f"{name} must be from {low:g} {end}, got {value!r}")
    return value


def boolean(name: str, value: Any) -> bool:
    """``value``, if it is True or False.

    Raises:
        InputTypeError: It is neither.
    """
    if not isinstance(value, bool):
        raise InputTypeError(f"{name} must be True or False, got {value!r}")
    return value


def did_you_mean(value: Any, allowed: Iterable[Any]) -> str:
    """``; did you mean 'x'?`` where an allowed word is near, '' elsewhere."""
    near = difflib.get_close_matches(str(value), [str(each) for each in allowed], n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
