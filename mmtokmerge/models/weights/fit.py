"""One rule for every way in which weights reach a model: what fits is loaded, the rest is refused.

A checkpoint's keys are brought to the model's by the prefixes that wrappers add, and by the tables
of published layouts. What is then missing, of another shape or not finite ends in one sentence.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mmengine.logging import print_log
from mmengine.runner import CheckpointLoader
from torch import Tensor, nn

from mmtokmerge.errors import InputError
from mmtokmerge.models.weights.align import align, is_head
from mmtokmerge.models.weights.describe import describe_weights
from mmtokmerge.models.weights.grids import Grid, grid_of, other_grids
from mmtokmerge.models.weights.rename import list_some
from mmtokmerge.models.weights.state_dicts import is_threshold, state_dict_of

HARMLESS = ("data_preprocessor", "loss", "criterion", "ema", "teacher", "student")
"""Modules that only training uses, or that hold no weights."""
_BOOKKEEPING = re.compile(r"(num_batches_tracked|relative_position_index)$")


@dataclass(frozen=True)
class Fitted:
    """Weights under a model's own keys.

    Args:
        weights: Every one of them is in the model, in its shape.
        notes: What a person should know, a sentence each: heads that start from random weights.
    """

    weights: dict[str, Tensor]
    notes: list[str] = field(default_factory=list)


def _refuse_whole_numbers(
    wanted: Mapping[str, Tensor], weights: Mapping[str, Tensor], name: str
) -> None:
    """Refuse integers where the model has floats: their scale is not known."""
    whole = [
        f"{key} ({weights[key].dtype})"
        for key, value in wanted.items()
        if key in weights
        and value.is_floating_point()
        and not (isinstance(weights[key], Tensor) and weights[key].is_floating_point())
    ]
    if whole:
        raise InputError(
            f"{name} holds whole numbers where the model has floats, in {list_some(whole)}: "
            "quantized weights cannot be read without their scales."
        )


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
        may_lack: Says of a key whether the model does without it.
        prepare: Changes the weights, in place and under the model's keys, before they are compared;
            the grid that the checkpoint says of its positions comes with them. None resizes
            positions to the model's grid.
        grid: The same grid, where ``content`` is a part of a checkpoint and lost it.

    Raises:
        InputError: The weights do not fit, with what is missing and what they look like.
    """
    wanted = model.state_dict()
    weights = align(model, state_dict_of(content, name), wanted, name)
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
        wanted = {k: v for k, v in wanted.items() if k.split(".")[0] in own or not is_head(k)}
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
    _refuse_whole_numbers(wanted, weights, name)
    modules = {key.split(".")[0] for key in wanted}
    notes += _left_over(model, weights, modules, name, training)
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


def _left_over(
    model: nn.Module,
    weights: Mapping[str, Tensor],
    modules: Collection[str],
    name: str,
    training: bool,
) -> list[str]:
    """What to say of weights of modules that a whole network does not have, heads aside.

    Raises:
        InputError: It is to be tested, and would be another network than the one that was trained.
    """
    if not hasattr(model, "backbone"):
        return []
    tops = {key.split(".")[0] for key in weights if not is_head(key)}
    others = sorted(tops - set(modules) - set(HARMLESS))
    if not others or not set(modules) & {key.split(".")[0] for key in weights}:
        return []
    said = f"{name} holds weights of {list_some(others)}, which the config's model does not have"
    if training:
        return [f"{said}: they are left out."]
    raise InputError(f"{said}: it was trained as another network.")


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


def _leave_out_heads(
    weights: dict[str, Tensor], wanted: Mapping[str, Tensor], name: str
) -> tuple[dict[str, Tensor], list[str]]:
    """Drop heads of another class count, and note those and the ones that are not there."""
    notes = []
    for module in sorted({key.split(".")[0] for key in wanted if is_head(key)}):
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
        model: The model that holds the backbones.
        weights: Under the model's keys.
        grid: What the checkpoint says.
        name: The name of the checkpoint.
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
        others = [] if taken is None or published else other_grids(taken)
        if taken and (taken[0] != taken[1] or others):
            reason = "as the model's are" if taken == module.grid else "a square"
            also = f"; {' or '.join(others)} have as many" if others else ""
            notes.append(
                f"{name} does not say the grid of its positions: they are taken for "
                f"{taken[0]}x{taken[1]} patches, {reason}{also}."
            )
    return notes


def _has_head(weights: Mapping[str, Tensor]) -> bool:
    return any(is_head(key) for key in weights)


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


def _thresholds(wanted: Mapping[str, Tensor]) -> list[str]:
    return [key for key in wanted if is_threshold(key)]


def _optional(key: str) -> bool:
    """Whether a model is whole without it: counters that older files lack, thresholds."""
    return bool(_BOOKKEEPING.search(key)) or is_threshold(key)
