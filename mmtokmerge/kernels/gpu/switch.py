"""Whether Triton's kernels run: by a setting, by the device, and after a check at first use."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec

import torch
from torch import Tensor

from mmtokmerge.errors import InputError
from mmtokmerge.kernels.recording import is_exported, is_jit_traced

SWITCH = "MMTOKMERGE_TRITON"
HAS_TRITON = find_spec("triton") is not None
DTYPES = (torch.float32, torch.float16, torch.bfloat16)

# Where the matching kernel should win, by arithmetic: to be measured with
# benchmarks/matching_gpu.py. Above so many channels, a library's faster product outweighs writing
# and reading the scores.
MAX_CHANNELS = 512
# With fewer tokens the GPU is not full, and one program's walk over the tiles is what takes time.
FULL_GPU = 16384
MAX_TILES = 128  # tiles of 64 destinations and 64 channels

MOST_AT_ONCE = 4096
"""Tokens up to which the kernel that numbers groups holds all of an image, and finds the greatest
similarities itself."""
MERGING, LAYERS = "merging", "layers"  # kernels that are checked together
_CHECKED: dict[tuple[str, str, int | None, torch.dtype], bool] = {}


def use_kernels(x: Tensor, kind: str = MERGING) -> bool:
    """Whether Triton's kernels of merging, or of layers, may take the tokens ``x``.

    The environment variable ``MMTOKMERGE_TRITON`` is 'auto' (the default: CUDA tensors, once the
    kernels have agreed with torch on this device and type), '1' (the same, and a sentence where
    Triton is not installed) or '0' (never). A model compiled by ``torch.compile`` keeps what the
    variable was when it was compiled.

    CPU tensors, fp64, NVIDIA cards older than Ampere, graphs that are exported and whatever torch
    is told to make deterministic are torch's.

    Raises:
        InputError: If the variable has another value, or is '1' and Triton is not installed.
    """
    switch = read_switch()
    if switch == "0" or not x.is_cuda or x.dtype not in DTYPES:
        return False
    if is_exported() or is_jit_traced() or torch.are_deterministic_algorithms_enabled():
        return False
    if not HAS_TRITON:
        if switch == "1":
            raise InputError(
                f"{SWITCH}=1 asks for the Triton kernel, but Triton is not installed: "
                f"install it with pip install triton, or set {SWITCH} to auto or 0."
            )
        return False
    runs: bool = _runs_on(x.device, x.dtype, kind)
    return runs


def use_layer_kernels(x: Tensor) -> bool:
    """Whether Triton's kernels of layers may take ``x``: without gradients and autocast.

    Raises:
        InputError: As :func:`use_kernels`.
    """
    if torch.is_grad_enabled() or torch.is_autocast_enabled(x.device.type):
        return False
    return use_kernels(x, LAYERS)


def use_triton(x: Tensor, destinations: Tensor) -> bool:
    """Whether the kernel, rather than torch, should compare these tokens.

    As :func:`use_kernels`, without gradients, and if the variable is 'auto', at sizes where it
    should win.

    Args:
        x: Tokens ``(B, N, C)``.
        destinations: ``(B, D, C)``.

    Raises:
        InputError: As :func:`use_kernels`.
    """
    if destinations.dtype != x.dtype or not use_kernels(x):
        return False
    if torch.is_grad_enabled() and (x.requires_grad or destinations.requires_grad):
        return False
    return read_switch() == "1" or pays(x.shape[0] * x.shape[1], destinations.shape[1], x.shape[2])


def read_switch() -> str:
    """The value of ``MMTOKMERGE_TRITON``.

    Raises:
        InputError: If it is none of 0, 1 and auto.
    """
    switch = os.environ.get(SWITCH, "auto")
    if switch not in ("0", "1", "auto"):
        raise InputError(f"{SWITCH}={switch!r} is unknown, allowed are 0, 1 and auto.")
    return switch


def pays(tokens: int, targets: int, channels: int) -> bool:
    """Whether the matching kernel should be faster than torch: an estimate, not a measurement.

    Args:
        tokens: Tokens of all images, ``B * N``.
        targets: Destinations of one image.
        channels: Channels of a token.
    """
    if channels > MAX_CHANNELS:
        return False
    return tokens >= FULL_GPU or -(-targets // 64) * -(-channels // 64) <= MAX_TILES


def _runs_on(device: torch.device, dtype: torch.dtype, kind: str = MERGING) -> bool:
    if not _has_card():
        return True  # a tensor without memory, of a tracer or counter: nothing will run
    key = (kind, device.type, device.index, dtype)
    if key not in _CHECKED:
        if _is_capturing():
            return False  # a check would end the capture
        _CHECKED[key] = _is_ampere(device) and agree(device, dtype, _check_of(kind))
    return _CHECKED[key]


# A compiler asks once, and does not compile the check itself: what
# torch.compiler.assume_constant_result does, which would import the whole compiler here. Functions
# have no such attribute for mypy.
_runs_on._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _has_card() -> bool:
    return torch.cuda.is_available()


def _is_capturing() -> bool:
    return torch.cuda.is_current_stream_capturing()


def _is_ampere(device: torch.device) -> bool:
    return torch.version.hip is None and torch.cuda.get_device_properties(device).major >= 8


def _check_of(kind: str) -> Callable[..., str | None]:
    from mmtokmerge.kernels.gpu.check import first_difference
    from mmtokmerge.kernels.gpu.layer_check import first_difference_of_layers

    return first_difference if kind == MERGING else first_difference_of_layers


def agree(
    device: torch.device, dtype: torch.dtype, check: Callable[..., str | None] | None = None
) -> bool:
    """Whether the kernels agree with torch here; if not, a warning says how."""
    found = check if check is not None else _check_of(MERGING)

    def difference_of() -> str | None:
        with torch.no_grad():
            try:
                return found(device, dtype)
            except Exception as error:  # Triton's compiler and the driver raise what they like
                return f"{type(error).__name__}: {error}"

    # A thread of its own has no mode, counter, autocast or compiler around it that sees the check.
    with ThreadPoolExecutor(1) as pool:
        difference = pool.submit(difference_of).result()
    if difference is not None:
        warnings.warn(
            f"Triton's kernels of mmtokmerge do not agree with torch on {device} in {dtype}, so "
            f"torch's own are taken, which are slower: {difference}",
            stacklevel=2,
        )
    return difference is None
