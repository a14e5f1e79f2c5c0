"""Most similar destinations by a Triton kernel: one pass, no scores in memory.

Importing this takes torch alone; Triton is imported when the kernel first runs.
"""

from __future__ import annotations

import os
from importlib.util import find_spec

import torch
from torch import Tensor

from mmtokmerge.errors import InputError

SWITCH = "MMTOKMERGE_TRITON"
HAS_TRITON = find_spec("triton") is not None
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
EPSILON = 1e-12

# Where the kernel should win, by arithmetic: to be measured with benchmarks/matching_gpu.py.
# Above so many channels, a library's faster product outweighs writing and reading the scores.
MAX_CHANNELS = 512
# With fewer tokens the GPU is not full, and one program's walk over the tiles is what takes time.
FULL_GPU = 16384
MAX_TILES = 128  # tiles of 64 destinations and 64 channels


def use_triton(x: Tensor, destinations: Tensor) -> bool:
    """Whether the kernel, rather than torch, should compare these tokens.

    The environment variable ``MMTOKMERGE_TRITON`` is '0' (never; the default until a measurement
    on a GPU says otherwise), 'auto' (CUDA tensors of sizes where the kernel should win) or '1' (all
    CUDA tensors that it can take). A model compiled by ``torch.compile`` keeps what the variable
    was when it was compiled.

    CPU tensors, fp64, gradients and NVIDIA cards older than Ampere are torch's.

    Args:
        x: Tokens ``(B, N, C)``.
        destinations: ``(B, D, C)``.

    Raises:
        InputError: If the variable has another value, or is '1' and Triton is not installed.
    """
    switch = read_switch()
    if switch == "0" or not x.is_cuda or x.dtype not in DTYPES or destinations.dtype != x.dtype:
        return False
    if torch.is_grad_enabled() and (x.requires_grad or destinations.requires_grad):
        return False
    if torch.version.hip is not None or torch.cuda.get_device_properties(x.device).major < 8:
        return False
    if not HAS_TRITON:
        if switch == "1":
            raise InputError(
                f"{SWITCH}=1 asks for the Triton kernel, but Triton is not installed: "
                f"install it with pip install triton, or set {SWITCH} to auto or 0."
            )
        return False
    return switch == "1" or pays(x.shape[0] * x.shape[1], destinations.shape[1], x.shape[2])


def read_switch() -> str:
    """The value of ``MMTOKMERGE_TRITON``.

    Raises:
        InputError: If it is none of 0, 1 and auto.
    """
    switch = os.environ.get(SWITCH, "0")
    if switch not in ("0", "1", "auto"):
        raise InputError(f"{SWITCH}={switch!r} is unknown, allowed are 0, 1 and auto.")
    return switch


def pays(tokens: int, targets: int, channels: int) -> bool:
    """Whether the kernel should be faster than torch: an estimate, not a measurement.

    Args:
        tokens: Tokens of all images, ``B * N``.
        targets: Destinations of one image.
        channels: Channels of a token.
    """
    if channels > MAX_CHANNELS:
        return False
    return tokens >= FULL_GPU or -(-targets // 64) * -(-channels // 64) <= MAX_TILES


def most_similar_triton(
    x: Tensor, destinations: Tensor, absent: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Find each token's most similar destination by cosine (Segformer++, equation 1).

    The counterpart of :func:`mmtokmerge.kernels.similarity.most_similar`, without gradients. Under
    autocast the product is taken in autocast's type. Sums and scores are fp32, where torch rounds
    the scores of fp16 and bf16 tokens, so that near-equal destinations may be told apart here that
    tie there. Of equal scores the first destination wins. A destination that holds NaN is never
    chosen; a token that does has the cosine NaN.

    Args:
        x: Tokens ``(B, N, C)`` in fp32, fp16 or bf16.
        destinations: ``(B, D, C)`` of the same type, D at least 1.
        absent: ``(B, D)`` bool, destinations that are none; their cosine counts as -inf.

    Returns:
        The cosine ``(B, N)``, at most 1, in fp32, and the index ``(B, N)`` of the best destination.

    Raises:
        InputError: If types or shapes do not fit, or the tokens are on a CPU and Triton does not
            interpret.
    """
    _check(x, destinations, absent)
    if not x.is_cuda and os.environ.get("TRITON_INTERPRET") != "1":
        raise InputError(f"the Triton kernel takes CUDA tensors, got one on {x.device}.")
    kind = x.device.type
    autocast = x.dtype == torch.float32 and torch.is_autocast_enabled(kind)
    dtype = torch.get_autocast_dtype(kind) if autocast else x.dtype
    similarity, index = _operator(x, destinations, absent, dtype)
    return similarity, index


def _check(x: Tensor, destinations: Tensor, absent: Tensor | None) -> None:
    if x.dtype not in DTYPES or destinations.dtype != x.dtype:
        raise InputError(
            "the Triton kernel compares tokens of one type, fp32, fp16 or bf16, "
            f"got {x.dtype} and {destinations.dtype}."
        )
    batch, _, channels = x.shape
    targets = destinations.shape[1]
    if destinations.shape != (batch, targets, channels) or targets < 1:
        raise InputError(
            f"destinations must be ({batch}, D, {channels}) with D at least 1 for tokens "
            f"{tuple(x.shape)}, got {tuple(destinations.shape)}."
        )
    if absent is not None and (absent.dtype != torch.bool or absent.shape != (batch, targets)):
        raise InputError(
            f"absent must be ({batch}, {targets}) bool, one for each destination, "
            f"got {tuple(absent.shape)} {absent.dtype}."
        )


# An operator of its own, so that torch.compile takes the kernel as one node of the graph.
@torch.library.custom_op(
    "mmtokmerge::most_similar",
    mutates_args=(),
    schema="(Tensor x, Tensor targets, Tensor? absent, ScalarType dtype) -> (Tensor, Tensor)",
)
def _operator(
    x: Tensor, targets: Tensor, absent: Tensor | None, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    from mmtokmerge.kernels.triton_kernels import launch

    with torch.cuda.device_of(x):  # Triton launches on the current device
        return launch(x, targets, absent, dtype, EPSILON)


@_operator.register_fake
def _(
    x: Tensor, targets: Tensor, absent: Tensor | None, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    size = x.shape[:2]
    return x.new_empty(size, dtype=torch.float32), x.new_empty(size, dtype=torch.int64)
