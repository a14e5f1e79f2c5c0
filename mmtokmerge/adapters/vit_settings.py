"""What ``apply`` takes for a plain ViT: methods, their options, and the reducers that they mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mmtokmerge.adapters.vit import Encoder
from mmtokmerge.checks import is_number, whole_number
from mmtokmerge.errors import InputError, InputTypeError
from mmtokmerge.layers.reducers import (
    ConditionalLocalPooling,
    DensityPeaks,
    EViT,
    FacilityLocation,
    GlobalBipartiteMerging,
    GlobalMergingByRate,
    GridMerging,
    LocalMergingByRate,
    MutualPairMerging,
    PiToMe,
    Reducer,
    TokenClustering,
    ToMe,
)

METHODS = ("none", "algm", "tome", "pitome", "evit", "elvit", "mpm", "ailurus", "toma", "cubist")
OPTIONS = {
    "none": (),
    "algm": ("threshold", "keep", "window"),
    "tome": ("count", "rate"),
    "pitome": ("count", "rate"),
    "evit": ("keep",),
    "elvit": ("keep",),
    "mpm": (),
    "ailurus": ("keep",),
    "toma": ("keep",),
    "cubist": ("keep",),
}
SHARES: dict[str, type[Reducer]] = {
    "elvit": TokenClustering,
    "ailurus": DensityPeaks,
    "toma": FacilityLocation,
    "cubist": GridMerging,
}
"""Methods that leave a share of the patches in one layer."""


@dataclass(frozen=True)
class Options:
    """What ``apply`` takes for a plain ViT; None for what was not given.

    Args:
        threshold: For ALGM, the cosine above which tokens merge.
        keep: For ALGM at a fixed rate: the shares of the patches that are left after local and
            after global merging; of EViT the share of a layer's tokens, of ELViT, AiluRus, ToMA and
            CubistMerge that of the patches.
        window: The windows of ALGM's local merging, in patches.
        count: For ToMe and PiToMe: tokens that merge in each layer.
        rate: For ToMe and PiToMe: share of the tokens of each layer that merge in it.
        layers: Layers, counted from 1: of ALGM the local and the global one, of ToMe and PiToMe
            all, of EViT 4, 7 and 10 of 12, of MPM those behind which pairs merge, 1 and 4 of 12, of
            ELViT, AiluRus, ToMA and CubistMerge one, a third of the depth.
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
    elif merging == "mpm":
        numbers = _layers(options.layers, [1, max(1, depth * 4 // 12)], merging)
        made = {n: [MutualPairMerging(layer=n, position="after")] for n in numbers}
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
    """EViT, and those that leave a share of the patches, told how much stays."""
    keep = options.keep
    if keep is None or not is_number(keep):
        raise InputError(f"merging={merging!r} takes keep=, a share above 0, up to 1, got {keep!r}")
    several = merging == "evit"
    layers = options.layers
    if layers is None:
        thirds = [depth * part // 12 for part in (4, 7, 10)] if several else [depth // 3]
        layers = sorted({max(1, number) for number in thirds})
    if not several and isinstance(layers, Sequence) and len(layers) > 1:
        raise InputTypeError(f"layers of {merging} are a list of one, got {layers!r}")
    numbers = _layers(layers, [], merging)
    if several:
        return {number: [EViT(keep, layer=number)] for number in numbers}
    kind: Any = SHARES[merging]
    return {number: [kind(keep, layer=number)] for number in numbers}


def _layers(layers: Any, default: Sequence[int], merging: str) -> list[int]:
    """Layers that are named, counted from 1, or the default."""
    layers = default if layers is None else layers
    if not isinstance(layers, Sequence) or not layers:
        raise InputTypeError(f"layers of {merging} are a list of at least one, got {layers!r}")
    return sorted({whole_number("layers", number, 1) for number in layers})


def global_layer(depth: int) -> int:
    """ALGM's layer of global merging: 5 of 12, 7 of 24 (ALGM, section 4), nearby of others."""
    return {12: 5, 24: 7}.get(depth, max(1, round(depth * 5 / 12)))
