"""Loading weights into the model that must take every one of them."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from mmtokmerge.errors import InputError
from mmtokmerge.models.weights.rename import list_some


def load_strictly(model: nn.Module, weights: Mapping[str, Tensor], title: str) -> None:
    """Load ``weights`` with nothing missing, nothing unexpected and no other shape.

    BatchNorm's batch counter, which old checkpoints lack, may be missing: it stays 0.

    Args:
        model: What the weights must make whole.
        weights: The checkpoint's state dict.
        title: What the model is called in a sentence.

    Raises:
        InputError: Otherwise; names the first five that do not fit.
    """
    wanted = model.state_dict()
    problems = [
        f"{key} is missing"
        for key in wanted
        if key not in weights and not key.endswith("num_batches_tracked")
    ]
    problems += [f"{key} is not in the model" for key in weights if key not in wanted]
    problems += [
        f"{key} is {tuple(value.shape)} where the model has {tuple(wanted[key].shape)}"
        for key, value in weights.items()
        if key in wanted and value.shape != wanted[key].shape
    ]
    if problems:
        raise InputError(f"the weights do not make a whole {title}: {list_some(problems)}")
    model.load_state_dict({**wanted, **weights}, strict=True)
