"""Settings of a plain ViT, read and checked before anything is built with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.model import ModuleList

from mmtokmerge.checks import whole_number
from mmtokmerge.errors import InputError, InputTypeError
from mmtokmerge.layers.reducers import ConditionalLocalPooling, Reducer, ThresholdReducer
from mmtokmerge.layers.vit_archs import VIT_ARCHS
from mmtokmerge.models.policies import TokenSharing
from mmtokmerge.registry import MODELS


def read_arch(
    arch: str | Mapping[str, int], known: Mapping[str, Mapping[str, int]]
) -> dict[str, int]:
    """Width, layers and heads of ``arch``, a word of ``known`` or a dict of those three.

    Raises:
        TypeError: If it is neither a word nor such a dict.
        ValueError: If the word is unknown, a number is below 1 or the heads do not divide C.
    """
    if isinstance(arch, str):
        if arch not in known:
            raise InputError(
                f"arch={arch!r} is unknown, allowed are {', '.join(map(repr, known))}, or a "
                "dict with embed_dims, num_layers and num_heads"
            )
        return dict(known[arch])
    wanted = set(VIT_ARCHS["t"])
    if not isinstance(arch, Mapping) or set(arch) != wanted:
        raise InputTypeError(f"arch must be a word or a dict with {sorted(wanted)}, got {arch!r}")
    for name, value in arch.items():
        whole_number(f"arch.{name}", value, 1)
    if arch["embed_dims"] % arch["num_heads"]:
        raise InputError(
            f"arch.num_heads={arch['num_heads']} must divide embed_dims={arch['embed_dims']}"
        )
    return dict(arch)


def read_out_indices(indices: int | Sequence[int], depth: int) -> tuple[int, ...]:
    """The layers whose output is returned, counted from 0; -1 is the last of ``depth``.

    Raises:
        ValueError: If they do not rise, or are not layers of the ViT.
    """
    listed = list(indices) if isinstance(indices, (list, tuple)) else [indices]
    if any(type(index) is not int for index in listed):
        raise InputTypeError(f"out_indices must be an int or a list of ints, got {indices!r}")
    read = tuple(depth - 1 if index == -1 else index for index in listed)
    rising = list(read) == sorted(set(read))
    if not read or not rising or any(index not in range(depth) for index in read):
        raise InputError(f"out_indices must rise within 0 to {depth - 1}, or be -1, got {indices}")
    return read


def build_reducers(
    configs: Sequence[Mapping[str, Any]], depth: int, grid: tuple[int, int]
) -> ModuleList:
    """The reducers of a list of configs, for a ViT of ``depth`` layers on the grid of its images.

    Raises:
        TypeError: If it is no list, or holds what is no reducer.
        ValueError: If one acts beyond the last layer, its window is larger than the grid, or a
            setting of its own is wrong.
    """
    if isinstance(configs, Mapping) or not isinstance(configs, (list, tuple)):
        raise InputTypeError(f"reducers must be a list of dicts, got {configs!r}")
    built = ModuleList()
    for config in configs:
        reducer = MODELS.build(dict(config))
        if not isinstance(reducer, Reducer):
            raise InputTypeError(f"reducers holds {config!r}, which is no reducer")
        if max(reducer.layers) > depth:
            raise InputError(
                f"layer={max(reducer.layers)} of {type(reducer).__name__} is beyond the ViT's "
                f"{depth} layers"
            )
        if isinstance(reducer, ConditionalLocalPooling) and any(
            side > whole for side, whole in zip(reducer.window, grid)
        ):
            raise InputError(
                f"window={reducer.window} of ConditionalLocalPooling is larger than the grid "
                f"{grid} of img_size, so nothing would merge"
            )
        built.append(reducer)
    return built


def check_unpadded(
    reducers: Sequence[Reducer], sharing: TokenSharing | None, proportional: bool
) -> None:
    """Raise unless ``unpadded_attention=True`` does something that it can do.

    Raises:
        ValueError: If merged tokens weigh by their size, which takes a bias, or every image of a
            batch keeps as many tokens as the others, so that nothing is padded.
    """
    if proportional:
        raise InputError(
            "unpadded_attention=True does not go with proportional=True, which needs a bias in "
            "the attention"
        )
    shares = sharing is not None and sharing.threshold is not None
    merges = any(isinstance(each, ThresholdReducer) and each.reduce for each in reducers)
    if not (shares or merges):
        raise InputError(
            "unpadded_attention=True does nothing without sharing by threshold or a reducer that "
            "reduces by threshold: the images of a batch then keep as many tokens each"
        )
