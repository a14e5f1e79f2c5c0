"""Settings of merging that a search goes through: their written form, and small changes of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from random import Random
from typing import Any

from mmtokmerge.merging import (
    PRESETS,
    BipartiteMatcher,
    CellPooling,
    Matcher,
    StageMerging,
    read_merging,
)
from mmtokmerge.merging.bipartite import DESTINATIONS, MATCHES
from mmtokmerge.merging.matcher import UNMERGES
from mmtokmerge.merging.segformer.presets import OPTIONS

Merging = tuple[StageMerging, ...]
"""What the four stages merge."""

RATES = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
STRIDES = (2, 3, 4, 6, 8)
POOLS = (2, 3, 4)
NEW = (
    BipartiteMatcher(0.6, (2, 2)),
    BipartiteMatcher(0.8, (4, 4)),
    BipartiteMatcher(0.9, (4, 4)),
    CellPooling((2, 2)),
)
"""What a side that merged nothing may begin with: the paper's table I."""


def presets() -> dict[str, Merging]:
    """Every preset that configs know, by name; 'none' comes first."""
    return {name: tuple(read_merging(name)) for name in sorted(PRESETS, key=lambda n: n != "none")}


def merging_config(merging: Merging) -> list[dict[str, Any]]:
    """The stage dicts of a config that :func:`mmtokmerge.merging.read_merging` reads the same."""
    return [_stage_config(stage) for stage in merging]


def changes(merging: Merging, num_layers: Sequence[int]) -> list[Merging]:
    """Every setting that is one small change away.

    A rate or a stride goes one step up or down, one side of a stage begins or ends to merge or
    merges in another way, an option changes in one stage or in all that have it, or the rates of
    all stages go one step the same way.

    Args:
        merging: The setting, which need not lie on the steps.
        num_layers: Blocks of each stage; a stage of one has nothing to reuse.

    Returns:
        Valid settings, each once, without ``merging``.
    """
    found: list[Merging] = []
    for index, stage in enumerate(merging):
        for other in _stage_changes(stage, num_layers[index]):
            found.append((*merging[:index], other, *merging[index + 1 :]))
    for change in EVERYWHERE:
        found.append(tuple(_settle(change(stage)) for stage in merging))
    return [each for each in dict.fromkeys(found) if each != merging]


def mix(first: Merging, second: Merging, rng: Random) -> Merging:
    """Each stage from one of two settings, drawn at random."""
    return tuple(rng.choice(pair) for pair in zip(first, second))


def merges_no_more(less: Merging, more: Merging) -> bool:
    """Whether no stage of ``less`` merges more than that of ``more`` and all else is alike."""
    return all(
        _side_no_more(a.q, b.q)
        and _side_no_more(a.kv, b.kv)
        and (a.kv is None or a.proportional == b.proportional)
        and a.reuse <= b.reuse
        for a, b in zip(less, more)
    )


def _side_no_more(less: Matcher | None, more: Matcher | None) -> bool:
    if less is None or more is None:
        return less is None
    if isinstance(less, BipartiteMatcher) and isinstance(more, BipartiteMatcher):
        return less.rate <= more.rate and replace(less, rate=more.rate) == more
    return less == more


def _stage_config(stage: StageMerging) -> dict[str, Any]:
    config: dict[str, Any] = {}
    options: dict[str, Any] = dict(OPTIONS, reuse=stage.reuse)
    for name, side in (("q", stage.q), ("kv", stage.kv)):
        if side is None:
            continue
        if isinstance(side, BipartiteMatcher):
            config[f"r_{name}"] = side.rate
            options.update(destination=side.destination, match=side.match)
        else:
            config[f"{name}_mode"] = side.mode
            options["unmerge"] = side.unmerge if name == "q" else options["unmerge"]
        config[f"{name}_stride"] = list(side.stride)
    if stage.proportional:
        config["proportional"] = True
    return {**config, **{key: value for key, value in options.items() if value != OPTIONS[key]}}


def _stage_changes(stage: StageMerging, num_layers: int) -> Iterator[StageMerging]:
    for side in _side_changes(stage.q):
        yield _settle(replace(stage, q=side), stage)
    for side in _side_changes(stage.kv):
        yield _settle(replace(stage, kv=side), stage)
    for change in OPTION_CHANGES:
        yield _settle(change(stage))
    for reuse in range(1, num_layers + 1):
        if abs(reuse - stage.reuse) == 1 or reuse == num_layers:
            yield _settle(replace(stage, reuse=reuse))


def _side_changes(side: Matcher | None) -> Iterator[Matcher | None]:
    if side is None:
        yield from NEW
        return
    yield None
    yield from (new for new in NEW if type(new) is not type(side))
    if isinstance(side, CellPooling):
        for cell in _steps(POOLS, side.kernel):
            yield replace(side, kernel=cell, along_sequence=False)
        return
    yield _step_rate(side, 1)
    yield _step_rate(side, -1)
    for stride in _steps(STRIDES, side.stride):
        within = [rate for rate in RATES if rate <= min(side.rate, _reach(stride))]
        if within:
            kept = side.rate <= _reach(stride)
            yield replace(side, stride=stride, rate=side.rate if kept else within[-1])


def _step_rate(side: BipartiteMatcher, direction: int) -> BipartiteMatcher:
    """The next rate up or down that the stride can reach; the same where there is none."""
    reach = _reach(side.stride)
    beyond = [r for r in RATES if direction * (r - side.rate) > 1e-9 and r <= reach]
    return replace(side, rate=min(beyond, key=lambda r: abs(r - side.rate))) if beyond else side


def _steps(ladder: Sequence[int], cell: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """The next smaller and the next larger square cell."""
    area = cell[0] * cell[1]
    smaller = [side for side in ladder if side * side < area]
    larger = [side for side in ladder if side * side > area]
    for side in (*smaller[-1:], *larger[:1]):
        yield side, side


def _reach(stride: tuple[int, int]) -> float:
    return 1 - 1 / (stride[0] * stride[1])


def _settle(stage: StageMerging, before: StageMerging | None = None) -> StageMerging:
    """Drop what would do nothing, and let both sides match as ``before`` did."""
    if before is not None and stage.bipartite and before.bipartite:
        old = before.bipartite[0]
        stage = _matching(stage, old.destination, old.match)
    return replace(
        stage,
        proportional=stage.proportional and stage.kv is not None,
        reuse=stage.reuse if stage.bipartite else 1,
    )


def _matching(stage: StageMerging, destination: str, match: str) -> StageMerging:
    q, kv = (
        replace(side, destination=destination, match=match)
        if isinstance(side, BipartiteMatcher)
        else side
        for side in (stage.q, stage.kv)
    )
    return replace(stage, q=q, kv=kv)


def _with_match(key: str, value: str) -> Callable[[StageMerging], StageMerging]:
    def change(stage: StageMerging) -> StageMerging:
        if not stage.bipartite:
            return stage
        side = stage.bipartite[0]
        return _matching(
            stage, **{"destination": side.destination, "match": side.match, key: value}
        )

    return change


def _with_unmerge(value: str) -> Callable[[StageMerging], StageMerging]:
    def change(stage: StageMerging) -> StageMerging:
        if not isinstance(stage.q, CellPooling) or stage.q.along_sequence:
            return stage
        return replace(stage, q=replace(stage.q, unmerge=value))

    return change


def _with_proportional(value: bool) -> Callable[[StageMerging], StageMerging]:
    return lambda stage: replace(stage, proportional=value)


def _with_rates(direction: int) -> Callable[[StageMerging], StageMerging]:
    def change(stage: StageMerging) -> StageMerging:
        q, kv = (
            _step_rate(side, direction) if isinstance(side, BipartiteMatcher) else side
            for side in (stage.q, stage.kv)
        )
        return replace(stage, q=q, kv=kv)

    return change


OPTION_CHANGES = (
    *(_with_proportional(value) for value in (False, True)),
    *(_with_match("destination", value) for value in DESTINATIONS),
    *(_with_match("match", value) for value in MATCHES),
    *(_with_unmerge(value) for value in UNMERGES),
)
EVERYWHERE = (*OPTION_CHANGES, _with_rates(1), _with_rates(-1))
