"""A checkpoint's keys brought to a model's: prefixes off or on, published layouts renamed."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from mmengine.logging import print_log
from torch import Tensor, nn

from mmtokmerge.errors import InputError

PREFIXES = ("module.", "model.", "backbone.", "_orig_mod.")
"""What wrappers and containers put before a key; any of them may stand before another."""
ENCODER_PREFIX = "backbone."


def align(
    model: nn.Module, weights: dict[str, Tensor], wanted: Mapping[str, Tensor], name: str
) -> dict[str, Any]:
    """The weights under the model's keys: prefixes off or on, published layouts renamed."""
    best = _best_prefix(weights, wanted)
    body = [key for key in wanted if not is_head(key)]
    if sum(key in best for key in body) > len(body) / 2:
        return best
    from mmtokmerge.models.weights.convert import ALL_FORMATS, convert
    from mmtokmerge.models.weights.rename import detect_format

    try:
        source = detect_format(weights, ALL_FORMATS)
    except InputError:
        source = None
    if source is None or source.startswith("mmseg"):
        return best
    try:
        result = convert(weights, source)
    except InputError as error:
        raise InputError(
            f"The checkpoint {name} has the layout of {ALL_FORMATS[source].title}, which "
            f"tools/convert_weights.py converts, but not this one: {error}"
        ) from error
    print_log(f"{name}: converted from the layout of {result.source}", "current")
    eps = next((m.eps for m in model.modules() if isinstance(m, nn.LayerNorm)), None)
    if result.norm_eps is not None and eps is not None and eps != result.norm_eps:
        print_log(
            f"{name}: the norms of {result.source} have an epsilon of {result.norm_eps}, but the "
            f"model's have {eps}: set backbone.norm_cfg=dict(type='LN', eps={result.norm_eps}) for "
            "its very features.",
            "current",
            logging.WARNING,
        )
    return _best_prefix(dict(result.state_dict), wanted)


def _best_prefix(weights: dict[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same weights with the prefix off or on that makes most of their keys the model's."""
    variants, seen = [weights], {frozenset(weights)}
    for _ in range(4):  # one around another
        for variant in list(variants):
            for prefix in PREFIXES:
                stripped = {
                    key.removeprefix(prefix): value
                    for key, value in variant.items()
                    if key.startswith(prefix)
                }
                if stripped:
                    # A wrapper's prefix stands before every key; a container's before its part.
                    rest = {k: v for k, v in variant.items() if not k.startswith(prefix)}
                    whole = prefix != ENCODER_PREFIX and not set(rest) & set(stripped)
                    made = {**rest, **stripped} if whole else stripped
                    if frozenset(made) not in seen:
                        seen.add(frozenset(made))
                        variants.append(made)
    variants.append({ENCODER_PREFIX + key: value for key, value in weights.items()})

    def fits(variant: Mapping[str, Tensor]) -> tuple[int, int]:
        same = [key for key in variant if key in wanted]
        return sum(variant[key].shape == wanted[key].shape for key in same), len(same)

    return max(variants, key=fits)


def is_head(key: str) -> bool:
    """Whether a key is of a head, by its top module's name."""
    return "head" in key.split(".")[0]
