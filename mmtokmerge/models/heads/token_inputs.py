"""What a head that works on tokens takes: a backbone's tokens, or any map as tokens of its grid."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from mmtokmerge.errors import InputError, InputTypeError
from mmtokmerge.layers import TokenFeatures
from mmtokmerge.layers.layout import to_tokens
from mmtokmerge.merging import TokenAssignment


def read_level(inputs: Any, index: int, channels: int) -> TokenFeatures:
    """Take one level of what a backbone gives.

    Args:
        inputs: A tuple or list of :class:`mmtokmerge.layers.TokenFeatures` or maps
            ``(B, C, h, w)``, whose cells are then tokens that stand alone.
        index: Which of them.
        channels: The channels C that it must have.

    Returns:
        Tokens ``(B, M, C)`` and where they stand.

    Raises:
        TypeError: If ``inputs`` is no tuple or list, or the level neither tokens nor a map.
        ValueError: If there is no such level or it has other channels.
    """
    if not isinstance(inputs, (list, tuple)):
        raise InputTypeError(
            f"decode_head takes a backbone's tuple of levels, got a {type(inputs).__name__}"
        )
    if not -len(inputs) <= index < len(inputs):
        raise InputError(
            f"decode_head.in_index asks for level {index}, but the backbone gives {len(inputs)}"
        )
    level = inputs[index]
    if isinstance(level, Tensor) and level.dim() == 4:
        hw = (level.shape[2], level.shape[3])
        alone = TokenAssignment.identity(hw[0] * hw[1], level.device)
        level = TokenFeatures(to_tokens(level), alone, hw)
    elif not isinstance(level, TokenFeatures):
        shape = f" {tuple(level.shape)}" if isinstance(level, Tensor) else ""
        raise InputTypeError(
            "decode_head takes TokenFeatures or maps (B, C, h, w), but the backbone's level "
            f"{index} is a {type(level).__name__}{shape}"
        )
    if level.tokens.shape[-1] != channels:
        raise InputError(
            f"decode_head.in_channels is {channels}, but the backbone's level {index} has "
            f"{level.tokens.shape[-1]} channels"
        )
    return level


def key_bias(features: TokenFeatures, proportional: bool = False) -> Tensor | None:
    """What is added to the logits at each token, ``(B or 1, M)`` in fp32; None for nothing.

    Args:
        features: The tokens.
        proportional: Whether a token weighs as much as the patches that it stands for: log of their
            number (ToMe, section 3.2, proportional attention).

    Returns:
        -inf at rows that are padding, and at the others 0 or the log of their size.
    """
    if not (proportional or features.assignment.padded):
        return None
    sizes = features.assignment.sizes
    weights = sizes if proportional else sizes > 0
    return weights.float().log()
