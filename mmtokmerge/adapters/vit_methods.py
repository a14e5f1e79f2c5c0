"""ALGM, ToMe and others put into a host's plain ViT: options, reducers, and the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from mmtokmerge.adapters.base import kind_of, replace_child
from mmtokmerge.adapters.passage import Passage
from mmtokmerge.adapters.report import EncoderPlan, LayerChange, Report, Size, TokenCount
from mmtokmerge.adapters.vit import REDUCERS, ROTARY, Encoder
from mmtokmerge.checks import boolean, is_number, one_of, whole_number
from mmtokmerge.errors import InputError, InputTypeError
from mmtokmerge.layers.reducers import (
    ConditionalLocalPooling,
    EViT,
    GlobalBipartiteMerging,
    GlobalMergingByRate,
    LocalMergingByRate,
    PiToMe,
    Reducer,
    TokenClustering,
    ToMe,
)

METHODS = ("none", "algm", "tome", "pitome", "evit", "elvit")
OPTIONS = {
    "none": (),
    "algm": ("threshold", "keep", "window"),
    "tome": ("count", "rate"),
    "pitome": ("count", "rate"),
    "evit": ("keep",),
    "elvit": ("keep",),
}


@dataclass(frozen=True)
class Options:
    """What ``apply`` takes for a plain ViT; None for what was not given.

    Args:
        threshold: For ALGM, the cosine above which tokens merge.
        keep: For ALGM at a fixed rate: the shares of the patches that are left after local and
            after global merging; of EViT the share of a layer's tokens, of ELViT that of the patches.
        window: The windows of ALGM's local merging, in patches.
        count: For ToMe and PiToMe: tokens that merge in each layer.
        rate: For ToMe and PiToMe: share of the tokens of each layer that merge in it.
        layers: Layers, counted from 1: of ALGM the local and the global one, of ToMe and PiToMe
            all, of EViT 4, 7 and 10 of 12, of ELViT one, a third of the depth.
        proportional: Merged tokens weigh by the log of their size; on for ToMe and PiToMe.
        rotary: How merged tokens turn: 'first' or 'mean'; of models whose positions turn them.
    """

    threshold: float | None = None
    keep: float | Sequence[float] | None = None
    window: int | tuple[int, int] | None = None
    count: int | None = None
    rate: float | None = None
    layers: Sequence[int] | None = None
    proportional: bool | None = None
    rotary: str | None = None

    def given(self) -> dict[str, Any]:
        """What was given."""
        return {name: value for name, value in vars(self).items() if value is not None}


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


def read_reducers(
    merging: str, options: Options, depth: int, encoder: Encoder
) -> dict[int, list[Reducer]]:
    """The reducers of each layer, counted from 1.

    Raises:
        InputError: A setting is missing, out of range, or would do nothing.
    """
    given = options.given()
    allowed = (
        *OPTIONS[merging],
        *(("layers", "proportional", "rotary") if merging != "none" else ()),
    )
    for name, value in given.items():
        if name not in allowed:
            takes = f"it takes {', '.join(allowed)}" if allowed else "it takes no options"
            raise InputError(f"{name}={value!r} does nothing with merging={merging!r}: {takes}")
    if merging == "none":
        return {}
    if merging == "algm":
        made = _algm(options, depth)
    elif merging in ("tome", "pitome"):
        made = _tome(merging, options, depth, encoder)
    else:
        made = _keeping(merging, options, depth)
    reducible = depth if encoder.num_reducible is None else encoder.num_reducible
    for number in made:
        if not 1 <= number <= reducible:
            reason = f" ({encoder.why_not})" if encoder.num_reducible is not None else ""
            raise InputError(f"layers: {number} is not from 1 to {reducible}{reason}")
    return made


def _algm(options: Options, depth: int) -> dict[int, list[Reducer]]:
    layers = options.layers
    if layers is None:
        layers = (1, global_layer(depth))
    if not isinstance(layers, Sequence) or len(layers) != 2:
        raise InputTypeError(f"layers of ALGM are two, the local and the global, got {layers!r}")
    local, other = (whole_number("layers", number, 1) for number in layers)
    window: Any = 2 if options.window is None else options.window
    if (options.threshold is None) == (options.keep is None):
        raise InputError(
            "merging='algm' takes threshold=, a cosine that mmtokmerge.calibrate(model, images) "
            "finds, or keep=(1/2, 1/3), shares of the patches that are left of every image"
        )
    first: Reducer
    second: Reducer
    if options.threshold is not None:
        settings: Any = dict(threshold=options.threshold)
        first = ConditionalLocalPooling(window=window, layer=local, **settings)
        second = GlobalBipartiteMerging(layer=other, **settings)
    else:
        keep = options.keep
        if not isinstance(keep, Sequence) or len(keep) != 2:
            raise InputError(
                f"keep must be two shares, after local and after global merging, got {keep!r}"
            )
        if all(share == 1 for share in keep):
            raise InputError(f"keep={tuple(keep)!r} merges nothing: take merging='none'")
        if keep[1] > keep[0]:
            raise InputError(f"keep={tuple(keep)!r}: the second share must not exceed the first")
        first = LocalMergingByRate(keep[0], window, layer=local)
        second = GlobalMergingByRate(keep[1], layer=other)
    if local > other:
        raise InputError(f"layers={tuple(layers)!r}: the local layer is before the global one")
    return {local: [first, second]} if local == other else {local: [first], other: [second]}


def _tome(merging: str, options: Options, depth: int, encoder: Encoder) -> dict[int, list[Reducer]]:
    reducible = depth if encoder.num_reducible is None else encoder.num_reducible
    layers = range(1, reducible + 1) if options.layers is None else options.layers
    if not isinstance(layers, Sequence) or not layers:
        raise InputTypeError(f"layers of {merging} are a list of at least one, got {layers!r}")
    if (options.count is None) == (options.rate is None):
        raise InputError(
            f"merging={merging!r} takes count=, tokens that merge in each layer, or rate=, the "
            "share of a layer's tokens that merge in it"
        )
    made: dict[int, list[Reducer]] = {}
    for number in layers:
        settings: Any = dict(layer=whole_number("layers", number, 1), rate=options.rate)
        if merging == "tome":
            made[number] = [ToMe(options.count, **settings)]
        else:  # the margin falls with the depth (PiToMe, section 3.2)
            margin = 0.9 - 0.9 * number / depth
            made[number] = [PiToMe(options.count, margin=margin, **settings)]
    return made


def _keeping(merging: str, options: Options, depth: int) -> dict[int, list[Reducer]]:
    """EViT and ELViT, told how much stays."""
    keep = options.keep
    if keep is None or not is_number(keep):
        raise InputError(f"merging={merging!r} takes keep=, a share above 0, up to 1, got {keep!r}")
    several = merging == "evit"
    layers = options.layers
    if layers is None:
        thirds = [depth * part // 12 for part in (4, 7, 10)] if several else [depth // 3]
        layers = sorted({max(1, number) for number in thirds})
    if not isinstance(layers, Sequence) or not layers or (len(layers) > 1 and not several):
        count = "a list of at least one" if several else "a list of one"
        raise InputTypeError(f"layers of {merging} are {count}, got {layers!r}")
    numbers = [whole_number("layers", number, 1) for number in layers]
    if several:
        return {number: [EViT(keep, layer=number)] for number in numbers}
    return {number: [TokenClustering(keep, layer=number)] for number in numbers}


def global_layer(depth: int) -> int:
    """ALGM's layer of global merging: 5 of 12, 7 of 24 (ALGM, section 4), nearby of others."""
    return {12: 5, 24: 7}.get(depth, max(1, round(depth * 5 / 12)))


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
