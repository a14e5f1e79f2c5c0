"""mmseg's MiT, around whose attention the PyPI package tomesd merges tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from mmseg.models.backbones import MixVisionTransformer
from mmseg.models.utils import nchw_to_nlc, nlc_to_nchw
from tomesd.merge import bipartite_soft_matching_random2d
from torch import Tensor, nn

from mmtokmerge.errors import InputError
from mmtokmerge.merging import StageMerging
from mmtokmerge.merging.matcher import BipartiteMatcher
from mmtokmerge.models.backbones.stock import fuse_attention


class TomesdMixVisionTransformer(MixVisionTransformer):
    """mmseg's ``MixVisionTransformer`` with tokens merged by ToMe for Stable Diffusion's package.

    Matching is tomesd's with ``no_rand=True``: destinations are the top-left tokens of the cells,
    as in Segformer++. The state dict is that of ``MixVisionTransformer``.

    Args:
        merging: What each stage merges, by rate alone.
        fused: Whether the attention is fused; False leaves mmseg's, as Segformer++'s authors run.
        **kwargs: Arguments of mmseg's ``MixVisionTransformer``.
    """

    def __init__(self, merging: Sequence[StageMerging], fused: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if fused:
            fuse_attention(self)
        for (_, blocks, _), stage in zip(self.layers, merging):
            for block in blocks:
                block.attn = TomesdAttention(block.attn, stage)


class TomesdAttention(nn.Module):
    """mmseg's efficient attention on tokens that tomesd merges and unmerges.

    Args:
        stock: mmseg's ``EfficientMultiheadAttention``, whose parts it takes over.
        merging: What is merged.
    """

    def __init__(self, stock: nn.Module, merging: StageMerging) -> None:
        super().__init__()
        self.merging = merging
        self.attn = stock.attn
        self.sr_ratio = stock.sr_ratio
        if stock.sr_ratio > 1:
            self.sr, self.norm = stock.sr, stock.norm
        self.proj_drop, self.dropout_layer = stock.proj_drop, stock.dropout_layer

    def forward(
        self, x: Tensor, hw_shape: tuple[int, int], identity: Tensor | None = None
    ) -> Tensor:
        """Attend among ``x (B, h*w, C)``; returns the residual ``identity`` plus the result."""
        kv, kv_hw = x, hw_shape
        if self.sr_ratio > 1:
            reduced = self.sr(nlc_to_nchw(x, hw_shape))
            kv, kv_hw = self.norm(nchw_to_nlc(reduced)), reduced.shape[2:]
        kv, _ = _merge(kv, kv_hw, self.merging.kv)
        q, unmerge = _merge(x, hw_shape, self.merging.q)
        q, kv = q.transpose(0, 1), kv.transpose(0, 1)  # (N, B, C)
        out = unmerge(self.attn(query=q, key=kv, value=kv)[0].transpose(0, 1))
        return (x if identity is None else identity) + self.dropout_layer(self.proj_drop(out))


def _merge(
    x: Tensor, hw: Sequence[int], matcher: BipartiteMatcher | None
) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Merged tokens ``(B, M, C)`` of ``x (B, h*w, C)``, and what undoes it."""
    if matcher is None:
        return x, lambda y: y
    (h, w), (sy, sx) = hw, matcher.stride
    if h < sy or w < sx:
        raise InputError(
            f"--peers tomesd needs a token in each {sy} x {sx} cell, but a stage has only "
            f"{h} x {w} tokens: take larger images or leave it out."
        )
    merged = int(h * w * matcher.rate)
    merge, unmerge = bipartite_soft_matching_random2d(x, w, h, sx, sy, merged, no_rand=True)
    return merge(x), unmerge
