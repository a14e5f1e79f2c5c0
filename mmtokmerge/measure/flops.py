"""FLOPs of a network on real images, where how much is merged depends on the image."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


@contextmanager
def counting_flops(model: nn.Module | None = None) -> Iterator[FlopCounterMode]:
    """Count what runs inside, 1 MAC = 2 FLOPs; read ``get_total_flops()`` at the end.

    torch counts neither the CPU's fused attention nor ``nn.MultiheadAttention``'s fast path: the
    first is added here, the second switched off. Its counter also fails where a module is given a
    trainable parameter as input, such as SegViT's class queries.

    Args:
        model: What will run; its parameters are not trainable meanwhile. None leaves that to the
            caller.
    """
    parameters = () if model is None else model.parameters()
    trainable = [each for each in parameters if each.requires_grad]
    own = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops}
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    for each in trainable:
        each.requires_grad_(False)
    try:
        with FlopCounterMode(display=False, custom_mapping=own) as counter:
            yield counter
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for each in trainable:
            each.requires_grad_(True)


def _attention_flops(
    query: torch.Size, key: torch.Size, value: torch.Size, *_: Any, **__: Any
) -> int:
    """Of query ``(B, H, N, C)`` with key ``(B, H, M, C)`` and value ``(B, H, M, D)``."""
    batch, heads, tokens, channels = query
    return 2 * batch * heads * tokens * key[2] * (channels + value[3])
