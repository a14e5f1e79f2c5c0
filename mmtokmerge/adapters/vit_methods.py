"""ALGM, ToMe and others put into a host's plain ViT: options, reducers, and the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from mmtokmerge.adapters.base import kind_of, replace_child
from mmtokmerge.adapters.passage import Passage
from mmtokmerge.adapters.report import EncoderPlan, LayerChange, Report, Size, TokenCount
from mmtokmerge.adapters.vit import REDUCERS, ROTARY, Encoder
from mmtokmerge.adapters.vit_settings import METHODS, Options, read_reducers
from mmtokmerge.checks import boolean, one_of
from mmtokmerge.errors import InputError, InputTypeError
from mmtokmerge.layers.reducers import Reducer


def check(encoder: Encoder, merging: Any, options: Options) -> dict[int, list[Reducer]]:
    """The reducers of each layer that a setting means, before anything is changed.

    Raises:
        InputError: A setting is wrong, missing, or would do nothing.
    """
    if not isinstance(merging, str):
        raise InputTypeError(f"merging of a plain ViT is one of {METHODS}, got {merging!r}")
    one_of("merging", merging, METHODS)
    if options.proportional is not None:
        boolean("proportional", options.proportional)
    if options.rotary is not None:
        one_of("rotary", options.rotary, ROTARY)
        if not encoder.turns:
            raise InputError(
                f"rotary={options.rotary!r} does nothing: no positions turn {encoder.name}'s tokens"
            )
    if merging == "none" and not encoder.fast_alone:
        raise InputError(
            f"merging='none' changes nothing of {encoder.name}: its attention has no faster kernel"
        )
    if merging == "evit" and encoder.num_prefix == 0:
        raise InputError(
            f"merging='evit' asks what the class token attends to, and {encoder.name} has none"
        )
    return read_reducers(merging, options, len(encoder.layers), encoder)


def apply_to(encoder: Encoder, merging: str, options: Options) -> Report:
    """Put merging into one encoder, whose setting :func:`check` has seen.

    Raises:
        InputError: The layers are of a version that is not known.
    """
    reducers = check(encoder, merging, options)
    proportional = options.proportional
    if proportional is None:
        proportional = merging in ("tome", "pitome")
    report = Report(encoder.name, merging, ViTPlan(encoder, reducers))
    put_in(encoder, reducers, proportional, report, rotary=options.rotary or "first")
    if not report.layers:
        reasons = sorted({why for _, why in report.left_alone})
        raise InputError(f"nothing of {encoder.name} could be changed: {'; '.join(reasons)}")
    return report


def put_in(
    encoder: Encoder,
    reducers: Mapping[int, Sequence[Reducer]],
    proportional: bool,
    report: Report,
    every_layer: bool = False,
    rotary: str = "first",
) -> None:
    """Replace attentions, and the layers from the first that reduces on.

    Args:
        encoder: The encoder.
        reducers: By layer, counted from 1.
        proportional: See :class:`Options`.
        report: Where to say what was changed.
        every_layer: Replace all layers, for who wants to see their tokens.
        rotary: See :class:`Options`.
    """
    reducible = len(encoder.layers) if encoder.num_reducible is None else encoder.num_reducible
    first = 1 if every_layer else min(reducers, default=reducible + 1)
    passage = Passage(encoder.num_prefix, proportional, first, rotary)
    if len({id(layer) for layer in encoder.layers}) < len(encoder.layers):
        raise InputError(f"{encoder.path} holds a layer twice, which merging cannot tell apart")
    unknown = [_unknown(encoder, layer) for layer in encoder.layers]
    if reducers or every_layer:  # all or none: a layer cannot hand tokens on to one left alone
        for number, why in enumerate(unknown[first - 1 : reducible], first):
            if why:
                raise InputError(f"{encoder.path}.{number - 1}: {why}")
    for number, layer in enumerate(list(encoder.layers), 1):
        where = f"{encoder.path}.{number - 1}"
        if unknown[number - 1]:
            report.left_alone.append((where, unknown[number - 1]))
            continue
        try:
            holder, name = encoder.attention_of(layer)
            replace_child(holder, name, encoder.attentions[kind_of(getattr(holder, name))])
            parts = "attention"
            if first <= number <= reducible:
                kind = encoder.kinds[kind_of(layer)]
                own = dict(passage=passage, number=number, last=number == reducible)
                own.update(encoder.attributes(layer))
                changed = replace_child(encoder.layers, str(number - 1), kind, **own)
                if number in reducers:
                    changed._modules[REDUCERS] = nn.ModuleList(reducers[number])
                    changed._modules[REDUCERS].train(changed.training)
                parts = "attention and layer"
        except InputError as why_not:
            if reducers or every_layer:
                raise InputError(f"{where}: {why_not}") from None
            report.left_alone.append((where, str(why_not)))
            continue
        report.layers.append(LayerChange(where, parts))
    if reducers or every_layer:
        encoder.patches.register_forward_hook(passage.see_patches)


def _unknown(encoder: Encoder, layer: Any) -> str:
    """Why a layer cannot be changed, '' where it can."""
    if kind_of(layer) not in encoder.kinds:
        return f"a layer of {kind_of(layer)} is not known"
    holder, name = encoder.attention_of(layer)
    found = kind_of(getattr(holder, name, None))
    return "" if found in encoder.attentions else f"its attention is {found}, which is not known"


def _first_norm(encoder: Encoder) -> str:
    """The name of a parameter ``(C,)`` of a layer: the weight of its first norm."""
    named: list[tuple[str, Any]] = list(encoder.layers[0].named_parameters())
    return next(name for name, value in named if value.dim() == 1 and "norm" in name)


class ViTPlan(EncoderPlan):
    """Tokens and operations of a plain ViT.

    Args:
        encoder: The encoder.
        reducers: By layer, counted from 1.
    """

    def __init__(self, encoder: Encoder, reducers: Mapping[int, Sequence[Reducer]]) -> None:
        self.reducers = reducers
        self.depth = len(encoder.layers)
        self.num_prefix = encoder.num_prefix
        self.channels = int(encoder.layers[0].get_parameter(_first_norm(encoder)).shape[0])
        self.grid_of = encoder.grid_of

    def heads(self) -> Sequence[str]:
        """See :class:`EncoderPlan`."""
        return ("tokens",)

    def rows(self, size: Size) -> list[tuple[Any, ...]]:
        """See :class:`EncoderPlan`."""
        counts = self._counts(size)
        rows: list[tuple[Any, ...]] = [("patches", "", TokenCount(counts[0][0] or 0, counts[0][0]))]
        whole = counts[0][0] or 0
        for number, (before, after) in enumerate(counts, 1):
            if number in self.reducers:
                shown = whole if before is None else before
                rows.append((f"layer {number}", "1", TokenCount(shown, after)))
        return rows

    def macs(self, size: Size) -> tuple[int, int] | None:
        """See :class:`EncoderPlan`; the MLP is taken to be four times as wide."""
        counts = self._counts(size)
        total, whole = 0, self._macs(counts[0][0] or 0, counts[0][0] or 0) * self.depth
        for before, after in counts:
            if before is None or after is None:
                return None
            total += self._macs(before, after)
        return whole, total

    def _macs(self, before: int, after: int) -> int:
        attended, fed = before + self.num_prefix, after + self.num_prefix
        c = self.channels
        return 4 * attended * c * c + 2 * attended * attended * c + 8 * fed * c * c

    def _counts(self, size: Size) -> list[tuple[int | None, int | None]]:
        """Tokens of each layer before and after it reduced; None where the image decides."""
        grid = self.grid_of(*size)
        left: int | None = grid[0] * grid[1]
        counts = []
        for number in range(1, self.depth + 1):
            before = left
            for reducer in self.reducers.get(number, ()):
                left = None if left is None else reducer.num_groups(left, grid)
            counts.append((before, left))
        return counts
