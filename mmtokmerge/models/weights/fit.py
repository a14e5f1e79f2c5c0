"""One rule for every way in which weights reach a model: what fits is loaded, the rest is refused.

A checkpoint's keys are brought to the model's by the prefixes that wrappers add, and by the tables
of published layouts. What is then missing, of another shape or not finite ends in one sentence.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from mmengine.logging import print_log
from mmengine.runner import CheckpointLoader
from torch import Tensor, nn

from mmtokmerge.errors import InputError
from mmtokmerge.models.weights.describe import describe_weights
from mmtokmerge.models.weights.grids import Grid, grid_of
from mmtokmerge.models.weights.rename import list_some

CONTAINERS = ("state_dict", "model", "model_state_dict", "module", "teacher")
"""Under which keys the checkpoints of mmengine, Facebook, timm and others hold their weights."""
PREFIXES = ("module.", "model.", "backbone.", "_orig_mod.")
"""What wrappers and containers put before a key; any of them may stand before another."""
ENCODER_PREFIX = "backbone."
_BOOKKEEPING = re.compile(r"(num_batches_tracked|relative_position_index)$")
_THRESHOLD = re.compile(r"(^|\.)reducers\.\d+\.tau$")


@dataclass(frozen=True)
class Fitted:
    """Weights under a model's own keys.

    Args:
        weights: Every one of them is in the model, in its shape.
        notes: What a person should know, a sentence each: heads that start from random weights.
    """

    weights: dict[str, Tensor]
    notes: list[str] = field(default_factory=list)


def state_dict_of(content: Any, name: str) -> dict[str, Tensor]:
    """The weights that a checkpoint holds.

    Raises:
        InputError: It holds none, something that is no tensor, or values that are not finite.
    """
    if not isinstance(content, Mapping):
        raise InputError(f"{name} holds no weights, but a value of type {type(content).__name__}.")
    found: Any = content
    for key in CONTAINERS:
        if isinstance(content.get(key), Mapping):
            found = content[key]
            break
    if not found:
        raise InputError(f"{name} holds no weights: it is empty.")
    for key, value in found.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise InputError(
                f"{name} holds no state dict: {key!r} is of type {type(value).__name__}, not a "
                "tensor."
            )
    broken = [
        key
        for key, value in found.items()
        if value.is_floating_point() and not _THRESHOLD.search(key) and not _is_finite(value)
    ]
    if broken:
        raise InputError(f"{name} holds values that are not finite, in {list_some(broken)}.")
    return dict(found)


def fit_weights(
    model: nn.Module,
    content: Any,
    name: str,
    *,
    training: bool = False,
    may_lack: Callable[[str], bool] = lambda key: False,
    prepare: Callable[[dict[str, Tensor], Grid | None], None] | None = None,
    grid: Grid | None = None,
) -> Fitted:
    """Find every weight of ``model`` in a checkpoint.

    Args:
        model: The bare model: a segmentor, a pose estimator or a backbone.
        content: What was read: a state dict, or a dict that holds one.
        name: What the sentences call the checkpoint, its path.
        training: The weights are what a training begins with: heads may be missing as a whole or
            have another number of classes; they then start from random weights, which is noted.
        may_lack: Of a key, whether the model does without it.
        prepare: Changes the weights, in place and under the model's keys, before they are compared;
            the grid that the checkpoint says of its positions comes with them. None resizes
            positions to the model's grid.
        grid: That grid where ``content`` is a part of the checkpoint, which lost it.

    Raises:
        InputError: The weights do not fit, with what is missing and what they look like.
    """
    wanted = model.state_dict()
    weights = _align(model, state_dict_of(content, name), wanted, name)
    weights, grid = dict(weights), grid or grid_of(content)
    notes: list[str] = []
    if prepare is not None:
        prepare(weights, grid)
    else:
        notes = _fit_grids(model, weights, grid, name, training and not _has_head(weights))
    _refuse_uncalibrated(wanted, weights, name, training or any(map(may_lack, _thresholds(wanted))))
    if training:
        weights, said = _leave_out_heads(weights, wanted, name)
        notes += said
        own = {key.split(".")[0] for key in weights}
        wanted = {k: v for k, v in wanted.items() if k.split(".")[0] in own or not _is_head(k)}
    problems = [
        f"{key} is missing"
        for key in wanted
        if key not in weights and not _optional(key) and not may_lack(key)
    ]
    problems += [
        f"{key} is {tuple(weights[key].shape)} where the model has {tuple(value.shape)}"
        for key, value in wanted.items()
        if key in weights and weights[key].shape != value.shape and not _BOOKKEEPING.search(key)
    ]
    modules = {key.split(".")[0] for key in wanted}
    problems += [
        f"{key} is not in the model"
        for key in weights
        if key not in wanted and key.split(".")[0] in modules and not _optional(key)
    ]
    if problems or not wanted:
        seen = describe_weights(weights, modules)
        raise InputError(
            f"The checkpoint {name} does not fit the config's model: "
            f"{'; '.join(problems[:5]) or 'it has none of its keys'}"
            + (f" and {len(problems) - 5} more" if len(problems) > 5 else "")
            + (f". It looks like {seen}." if seen else ".")
        )
    own = model.state_dict()
    return Fitted({k: v for k, v in weights.items() if k in own and v.shape == own[k].shape}, notes)


def load_weights(model: nn.Module, path: str, **options: Any) -> dict[str, Any]:
    """Load all weights of ``model`` from a file or URL; ``options`` are :func:`fit_weights`'.

    Returns:
        What the checkpoint holds.

    Raises:
        InputError: It cannot be read, or does not fit.
    """
    content = CheckpointLoader.load_checkpoint(path, map_location="cpu")
    fitted = fit_weights(model, content, path, **options)
    say_notes(fitted)
    model.load_state_dict(fitted.weights, strict=False)
    return content if isinstance(content, dict) else {}


def say_notes(fitted: Fitted) -> None:
    """Log what a person should know."""
    for note in fitted.notes:
        print_log(note, "current", logging.WARNING)


def _align(
    model: nn.Module, weights: dict[str, Tensor], wanted: Mapping[str, Tensor], name: str
) -> dict[str, Any]:
    """The weights under the model's keys: prefixes off or on, published layouts renamed."""
    best = _best_prefix(weights, wanted)
    body = [key for key in wanted if not _is_head(key)]
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
    variants = [weights]
    for _ in range(2):
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
                    variants.append({**rest, **stripped} if whole else stripped)
    variants.append({ENCODER_PREFIX + key: value for key, value in weights.items()})

    def fits(variant: Mapping[str, Tensor]) -> tuple[int, int]:
        same = [key for key in variant if key in wanted]
        return sum(variant[key].shape == wanted[key].shape for key in same), len(same)

    return max(variants, key=fits)


def _leave_out_heads(
    weights: dict[str, Tensor], wanted: Mapping[str, Tensor], name: str
) -> tuple[dict[str, Tensor], list[str]]:
    """Drop heads of another class count, and note those and the ones that are not there."""
    notes = []
    for module in sorted({key.split(".")[0] for key in wanted if _is_head(key)}):
        own = [key for key in wanted if key.startswith(f"{module}.")]
        if not any(key in weights for key in own):
            notes.append(f"{name} has no {module}: it starts from random weights.")
            continue
        other = [k for k in own if k in weights and weights[k].shape != wanted[k].shape]
        counts = _class_counts(weights, wanted, other)
        if counts:
            words = ", ".join(f"{a} instead of {b}" for a, b in counts.items())
            notes.append(
                f"{name}: {', '.join(other)} are of another number of classes ({words}) and start "
                "from random weights."
            )
            random = {key: wanted[key] for key in other}
            weights = {**weights, **random}
    return weights, notes


def _refuse_uncalibrated(
    wanted: Mapping[str, Tensor], weights: Mapping[str, Tensor], name: str, allowed: bool
) -> None:
    lacking = [key for key in _thresholds(wanted) if key not in weights]
    if lacking and not allowed:
        raise InputError(
            f"The checkpoint {name} holds no threshold for {', '.join(lacking)}, which the "
            "config leaves to 'auto': run tools/calibrate_threshold.py with this config and "
            "checkpoint and use the checkpoint that it writes, or give a number as threshold."
        )


def _fit_grids(
    model: nn.Module, weights: dict[str, Tensor], grid: Grid | None, name: str, published: bool
) -> list[str]:
    """Let each backbone with positions resize a checkpoint's to its own grid, in place.

    Args:
        model: That holds the backbones.
        weights: Under the model's keys.
        grid: What the checkpoint says.
        name: Of the checkpoint.
        published: Whether it is a backbone alone, as pretraining leaves it.

    Returns:
        What a person should know.
    """
    notes = []
    for path, module in model.named_modules():
        fit = getattr(module, "fit_positions", None)
        if fit is None:
            continue
        taken = fit(weights, f"{path}." if path else "", grid, published)
        if taken and taken[0] != taken[1]:
            notes.append(
                f"{name} does not say the grid of its positions: they are taken for "
                f"{taken[0]}x{taken[1]} patches, as the model's are."
            )
    return notes


def _is_head(key: str) -> bool:
    return "head" in key.split(".")[0]


def _has_head(weights: Mapping[str, Tensor]) -> bool:
    return any(_is_head(key) for key in weights)


def _class_counts(
    weights: Mapping[str, Tensor], wanted: Mapping[str, Tensor], keys: Sequence[str]
) -> dict[int, int]:
    """Sizes of a checkpoint and the model's, where a head differs in its number of classes alone.

    Each tensor then differs along one dimension, all by the same number. Else the dict is empty.
    """
    counts: dict[int, int] = {}
    for key in keys:
        theirs, own = weights[key].shape, wanted[key].shape
        sizes = [(a, b) for a, b in zip(theirs, own) if a != b]
        if len(theirs) != len(own) or len(sizes) != 1:
            return {}
        counts.update(sizes)
    return counts if len({a - b for a, b in counts.items()}) == 1 else {}


def is_threshold(key: str) -> bool:
    """Whether a key names what ``threshold='auto'`` of a reducer keeps."""
    return _THRESHOLD.search(key) is not None


def _thresholds(wanted: Mapping[str, Tensor]) -> list[str]:
    return [key for key in wanted if is_threshold(key)]


def _optional(key: str) -> bool:
    """Whether a model is whole without it: counters that older files lack, thresholds."""
    return bool(_BOOKKEEPING.search(key)) or is_threshold(key)


def _is_finite(value: Tensor) -> bool:
    return bool(torch.isfinite(value).all())
