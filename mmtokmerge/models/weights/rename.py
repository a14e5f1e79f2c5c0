"""Renaming and reshaping a state dict by a table of :mod:`.formats`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache

import torch
from torch import Tensor

from mmtokmerge.errors import InputError
from mmtokmerge.models.weights.formats import FORMATS, Rule, WeightFormat

ENCODER, HEAD = "backbone.", "decode_head."
SHOWN = 5
_PLACEHOLDERS = {
    "<S>": r"(?P<S>[1-4])",
    "<s>": r"(?P<s>[0-3])",
    "<n>": r"(?P<n>\d+)",
    "**": r"(?P<rest>.+)",
    "*": r"(?P<leaf>weight|bias|running_mean|running_var|num_batches_tracked)",
}
_SPLIT = re.compile(r"(<S>|<s>|<n>|\*\*|\*)")


@dataclass
class Renamed:
    """Weights under our names.

    Args:
        weights: Keys ``backbone.*`` and, where the source has a decode head, ``decode_head.*``.
        dropped: For each kind of weights that were left out, their keys: ours for a decode head,
            the source's for what no model here has.
    """

    weights: dict[str, Tensor] = field(default_factory=dict)
    dropped: dict[str, list[str]] = field(default_factory=dict)

    @property
    def has_head(self) -> bool:
        """Whether there is a decode head."""
        return any(key.startswith(HEAD) for key in self.weights)

    def drop_head(self) -> None:
        """Leave the decode head out."""
        keys = [key for key in self.weights if key.startswith(HEAD)]
        for key in keys:
            del self.weights[key]
        if keys:
            self.dropped["decode head"] = keys


def detect_format(keys: Iterable[str], formats: Mapping[str, WeightFormat] = FORMATS) -> str:
    """The name in ``formats`` of the source that these keys come from.

    Raises:
        InputError: If it is none of them.
    """
    keys = list(keys)
    for name, source in formats.items():
        if source.mark in keys or source.prefix + source.mark in keys:
            return name
    titles = ", ".join(source.title for source in formats.values())
    raise InputError(f"the keys ({list_some(keys)}) are of no known source, known are: {titles}")


def rename(state: Mapping[str, Tensor], source: WeightFormat) -> Renamed:
    """Give every tensor of ``state`` its name and shape in our models.

    Raises:
        InputError: If a key is not in the source's table, two keys claim one place, or a tensor
            cannot be reshaped.
    """
    renamed, unknown = Renamed(), []
    parts: dict[str, dict[int, Tensor]] = {}
    for key, tensor in state.items():
        found = _find(key, source)
        kind = None if found else _find_dropped(key, source)
        if found is not None:
            rule, target = found
            rows = parts.setdefault(target, {})
            if rule.part in rows:
                raise InputError(f"{key!r} and another key both stand for {target!r}")
            rows[rule.part] = rule.change(tensor) if rule.change is not None else tensor
        elif kind is not None:
            renamed.dropped.setdefault(kind, []).append(key)
        else:
            unknown.append(key)
    if unknown:
        raise InputError(
            f"{len(unknown)} of {len(state)} keys are not known from {source.title}: "
            f"{list_some(unknown)}"
        )
    for target, rows in parts.items():
        renamed.weights[target] = _join([rows[part] for part in sorted(rows)], target)
    return renamed


def _join(rows: list[Tensor], target: str) -> Tensor:
    if len(rows) == 1:
        return rows[0]
    if len({part.shape[1:] for part in rows}) > 1 or rows[0].ndim == 0:
        shapes = list_some(str(tuple(part.shape)) for part in rows)
        raise InputError(f"the parts of {target!r} do not fit together: {shapes}")
    return torch.cat(rows)


def list_some(items: Iterable[str]) -> str:
    """The first five items, and how many more there are."""
    items = list(items)
    more = f" and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
    return ", ".join(items[:SHOWN]) + more


def _find(key: str, source: WeightFormat) -> tuple[Rule, str] | None:
    for rules, prefix, ours in ((source.encoder, source.prefix, ENCODER), (source.head, "", "")):
        for rule in rules:
            match = _compile(rule.source, prefix).fullmatch(key)
            if match is not None:
                return rule, ours + _fill(rule.target, match)
    return None


def _find_dropped(key: str, source: WeightFormat) -> str | None:
    for pattern, kind in source.dropped:
        if _compile(pattern, source.prefix).fullmatch(key):
            return kind
    return None


@cache
def _compile(pattern: str, prefix: str) -> re.Pattern[str]:
    pieces = (_PLACEHOLDERS.get(piece, re.escape(piece)) for piece in _SPLIT.split(pattern))
    return re.compile(f"(?:{re.escape(prefix)})?" + "".join(pieces))


def _fill(target: str, match: re.Match[str]) -> str:
    found = match.groupdict()
    stage = found.get("s") or (str(int(found["S"]) - 1) if "S" in found else "")
    values = {"<s>": stage, "<n>": found.get("n"), "*": found.get("leaf"), "**": found.get("rest")}
    return "".join(values.get(piece, piece) or "" for piece in _SPLIT.split(target))
