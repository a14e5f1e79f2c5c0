"""What a stage of MiT++ merges: the settings of a config, checked when the model is built."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from mmtokmerge.checks import is_whole, one_of
from mmtokmerge.errors import InputError, InputTypeError
from mmtokmerge.merging.bipartite import DESTINATIONS, MATCHES, check_rate
from mmtokmerge.merging.grid import pair
from mmtokmerge.merging.matcher import (
    UNMERGES,
    BipartiteMatcher,
    CellPooling,
    Matcher,
    StageMerging,
)

T = TypeVar("T")

MODES = ("bsm", "n1d", "n2d")
OPTIONS: dict[str, Any] = dict(destination="corner", match="global", unmerge="copy", reuse=1)
CHOICES = dict(destination=DESTINATIONS, match=MATCHES, unmerge=UNMERGES)
KEYS = ("r_q", "r_kv", "q_mode", "kv_mode", "q_stride", "kv_stride", "proportional", *OPTIONS)

_HQ_KV = dict(kv_mode="bsm", r_kv=0.6, kv_stride=(2, 2))
_HQ_Q = dict(q_mode="bsm", r_q=0.8, q_stride=(4, 4))
_FAST_KV = dict(kv_mode="bsm", r_kv=0.9, kv_stride=(4, 4))
_FAST_Q = dict(q_mode="bsm", r_q=0.9, q_stride=(4, 4))
_N2D = dict(q_mode="n2d", q_stride=(2, 2))

# Beyond the paper, for weights that were trained without merging: queries of the first two stages
# are pooled as n2d does, merged keys weigh as much as they stand for, and a fifth of them stays.
_PLUS_KV = dict(
    q_mode="n2d", q_stride=(2, 2), kv_mode="bsm", r_kv=0.8, kv_stride=(4, 4), proportional=True
)

# Segformer++, table I, the same for every arch and data set; and 'plus'.
PRESETS: dict[str, list[dict[str, Any]]] = {
    "none": [{}, {}, {}, {}],
    "hq": [_HQ_KV, _HQ_KV, _HQ_Q, _HQ_Q],
    "fast": [_FAST_KV, _FAST_KV, _FAST_Q, _FAST_Q],
    "n2d": [_N2D, _N2D, _N2D, _N2D],
    "plus": [_PLUS_KV, _PLUS_KV, _FAST_Q, _FAST_Q],
}

MergingConfig = str | Sequence[Mapping[str, Any]]


def read_merging(merging: MergingConfig, proportional: bool | None = None) -> list[StageMerging]:
    """Read the ``merging`` of a config: a preset's name or a list of four stage dicts.

    Args:
        merging: 'none', 'hq', 'fast', 'n2d', 'plus' or four dicts with keys of :data:`KEYS`.
        proportional: Sets ``proportional`` in every stage that merges keys; None leaves it as the
            stages say.

    Raises:
        TypeError: If a value has the wrong type.
        ValueError: If a preset, key, mode, rate or stride is unknown or out of range, or a setting
            would do nothing.
    """
    if isinstance(merging, str):
        if merging not in PRESETS:
            raise InputError(
                f"merging={merging!r} is no preset: take one of {', '.join(map(repr, PRESETS))} "
                "or a list of four stage dicts"
            )
        merging = PRESETS[merging]
    if isinstance(merging, Mapping) or not isinstance(merging, Sequence):
        raise InputTypeError(
            f"merging must be a preset's name or four stage dicts, got {merging!r}"
        )
    if len(merging) != 4:
        raise InputError(f"merging must have four stage dicts, got {len(merging)}")
    stages = [_read_stage(stage, f"merging, stage {i}") for i, stage in enumerate(merging, 1)]
    if proportional is None:
        return stages
    if not isinstance(proportional, bool):
        raise InputTypeError(f"proportional must be True, False or None, got {proportional!r}")
    if proportional and all(stage.kv is None for stage in stages):
        raise InputError("proportional=True needs a stage that merges keys (r_kv or kv_mode)")
    return [replace(stage, proportional=proportional and stage.kv is not None) for stage in stages]


def _read_stage(stage: Any, where: str) -> StageMerging:
    if not isinstance(stage, Mapping):
        raise InputTypeError(f"{where}: must be a dict, got {stage!r}")
    for key in stage:
        if key not in KEYS:
            raise InputError(f"{where}: unknown key {key!r}, allowed are {', '.join(KEYS)}")
    proportional = stage.get("proportional", False)
    if not isinstance(proportional, bool):
        raise InputTypeError(f"{where}: proportional must be True or False, got {proportional!r}")
    q = _read_matcher(stage, "q", where)
    kv = _read_matcher(stage, "kv", where)
    if proportional and kv is None:
        raise InputError(f"{where}: proportional=True needs merged keys, set r_kv or kv_mode")
    return _with_options(StageMerging(q, kv, proportional), stage, where)


def _with_options(merging: StageMerging, stage: Mapping[str, Any], where: str) -> StageMerging:
    """Add what goes beyond the paper: the keys of :data:`OPTIONS`."""
    options = {key: stage.get(key, default) for key, default in OPTIONS.items()}
    for key, allowed in CHOICES.items():
        _located(where, partial(one_of, key, options[key], allowed))
    reuse = options["reuse"]
    if not is_whole(reuse):
        raise InputTypeError(f"{where}: reuse must be a number of blocks, got {reuse!r}")
    if reuse < 1:
        raise InputError(f"{where}: reuse={reuse!r} must be at least 1")
    pools = isinstance(merging.q, CellPooling) and not merging.q.along_sequence
    for key, value in options.items():
        acts, needed = bool(merging.bipartite), "r_q or r_kv"
        if key == "unmerge":
            acts, needed = pools, "q_mode='n2d'"
        if value != OPTIONS[key] and not acts:
            raise InputError(f"{where}: {key}={value!r} does nothing without {needed}")
    q, kv = (_place(side, options) for side in (merging.q, merging.kv))
    if isinstance(q, CellPooling) and pools:
        q = replace(q, unmerge=options["unmerge"])
    return replace(merging, q=q, kv=kv, reuse=reuse)


def _place(matcher: Matcher | None, options: Mapping[str, Any]) -> Matcher | None:
    if not isinstance(matcher, BipartiteMatcher):
        return matcher
    return replace(matcher, destination=options["destination"], match=options["match"])


def _read_matcher(stage: Mapping[str, Any], side: str, where: str) -> Matcher | None:
    mode_key, rate_key, stride_key = f"{side}_mode", f"r_{side}", f"{side}_stride"
    mode, rate = stage.get(mode_key), stage.get(rate_key)
    stride = stage.get(stride_key)
    if mode is None and rate is not None and mode_key not in stage:
        mode = "bsm"
    if mode is None or mode == "none":
        for key in (rate_key, stride_key):
            if stage.get(key) not in (None, 0):
                raise InputError(
                    f"{where}: {key}={stage[key]!r} does nothing without {mode_key}, "
                    f"set it to one of {', '.join(map(repr, MODES))}"
                )
        return None
    if stride is None:
        stride = 2
    if mode not in MODES:
        raise InputError(
            f"{where}: {mode_key}={mode!r} is unknown, allowed are "
            f"{', '.join(map(repr, MODES))} and None"
        )
    if mode == "bsm":
        if rate is None:
            raise InputError(f"{where}: {mode_key}='bsm' needs {rate_key}")
        reached = _located(where, lambda: check_rate(rate, stride, rate_key, stride_key))
        return BipartiteMatcher(float(rate), reached) if rate > 0 else None
    if rate is not None:
        raise InputError(
            f"{where}: {rate_key}={rate!r} does nothing with {mode_key}={mode!r}, "
            f"whose rate is fixed by {stride_key}"
        )
    cell = _located(where, lambda: _cell(mode, stride, stride_key))
    return CellPooling(cell, along_sequence=mode == "n1d")


def _cell(mode: str, stride: int | tuple[int, int], key: str) -> tuple[int, int]:
    if mode == "n1d":
        if isinstance(stride, int):
            stride = (1, stride)
        elif pair(stride, key)[0] != 1:
            raise InputError(f"{key}={stride!r}: 'n1d' takes an int or (1, k), a run of k tokens")
    cell = pair(stride, key)
    if cell == (1, 1):
        raise InputError(f"{key}={stride!r} merges nothing, take at least 2 tokens")
    return cell


def _located(where: str, read: Callable[[], T]) -> T:
    """Run ``read`` and put the place in the config before its error."""
    try:
        return read()
    except (TypeError, ValueError) as error:
        raise type(error)(f"{where}: {error}") from None
