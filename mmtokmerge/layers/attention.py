"""Attention with spatial reduction, and with tokens merged around it (Segformer++, figure 2d)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmtokmerge.kernels.attention import attend, by_rows
from mmtokmerge.kernels.linear import linear
from mmtokmerge.kernels.norm import call_norm
from mmtokmerge.kernels.plain import call_linear, is_plain
from mmtokmerge.kernels.recording import is_exported, is_jit_traced
from mmtokmerge.kernels.residual import residual
from mmtokmerge.kernels.unpadded import attend_unpadded
from mmtokmerge.layers.layout import hold_grid, to_map, to_tokens
from mmtokmerge.merging import StageMerging, TokenAssignment
from mmtokmerge.merging.trace import KEYS, QUERIES, is_traced, report


class MultiheadAttention(nn.Module):
    """Projections and attention, with the parameters of :class:`torch.nn.MultiheadAttention`.

    Args:
        embed_dims: Channels C of the tokens.
        num_heads: Heads, a divisor of C.
        qkv_bias: Whether the projections have a bias.
        attn_drop: Dropout of the attention weights.
        fused: See :func:`attend`.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        qkv_bias: bool = True,
        attn_drop: float = 0.0,
        fused: bool = True,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attn_drop = attn_drop
        self.fused = fused
        self.in_proj_weight = nn.Parameter(torch.empty(3 * embed_dims, embed_dims))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * embed_dims)) if qkv_bias else None
        self.out_proj = nn.Linear(embed_dims, embed_dims, bias=qkv_bias)
        nn.init.xavier_uniform_(self.in_proj_weight)

    def forward(
        self,
        q: Tensor,
        kv: Tensor | None = None,
        bias: Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Attend from the tokens ``q (B, N, C)`` to ``kv (B, M, C)``; returns ``(B, N, C)``.

        Without ``kv`` the tokens attend among themselves, ``lengths`` may stand for a bias that
        hides padding, and queries, keys and values ``(3, B, heads, N, d)`` are returned too.
        ``bias`` is added to the logits, broadcast to ``(B, heads, N, M)``.
        """
        if kv is None:
            return self.attend_self(q, bias, lengths)
        dropout = self.attn_drop if self.training else 0.0
        if self.num_heads == 1 and dropout == 0 and is_plain(self.out_proj, nn.Linear):
            return self._one_head(q, kv, bias)
        queries, keys, values = map(self._heads, self._project(q, kv))
        y = attend(queries, keys, values, bias, dropout=dropout, fused=self.fused)
        return call_linear(self.out_proj, y.transpose(1, 2).flatten(2))

    def attend_self(
        self, x: Tensor, bias: Tensor | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Attend among the tokens ``x (B, N, C)``; see :class:`mmtokmerge.layers.SelfAttention`."""
        if is_exported():  # runtimes copy the parts of one product, and fuse three into attention
            q, k, v = map(self._heads, self._project_apart(x))
            qkv = torch.stack([q, k, v])
        else:
            qkv = linear(x, self.in_proj_weight, self.in_proj_bias)  # (B, N, 3C)
            qkv = qkv.unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
            q, k, v = qkv.unbind(0)
        dropout = self.attn_drop if self.training else 0.0
        if lengths is None:
            y = attend(q, k, v, bias, dropout=dropout, fused=self.fused)
        else:
            y = attend_unpadded(q, k, v, lengths, dropout=dropout, fused=self.fused)
        return call_linear(self.out_proj, y.transpose(1, 2).flatten(2)), qkv

    def _one_head(self, q: Tensor, kv: Tensor, bias: Tensor | None) -> Tensor:
        """The same where products may change places, so that few keys are projected, not queries.

        The weights of a head sum to 1, so the output projection may act on the values. And
        ``(W q + b) k = q (W^T k) + b k``: the queries' projection may act on the keys, which then
        have a bias of their own, where attention takes one for nothing.
        """
        if q is not kv and self.fused and by_rows(q.shape[1], kv, bias):
            width = q.shape[-1]
            weight_q, weight_kv = self.in_proj_weight.split([width, 2 * width])
            bias_q, bias_kv = self._split_bias(width)
            keys, values = linear(kv, weight_kv, bias_kv).chunk(2, dim=-1)
            if bias_q is not None:
                shift = (keys @ bias_q * width**-0.5)[:, None, None]  # (B, 1, 1, M)
                bias = shift if bias is None else bias + shift
            queries, keys = q, keys @ weight_q
        else:
            queries, keys, values = self._project(q, kv)
        values = call_linear(self.out_proj, values)
        y = attend(queries[:, None], keys[:, None], values[:, None], bias, fused=self.fused)
        return y[:, 0]

    def _project(self, q: Tensor, kv: Tensor) -> tuple[Tensor, ...]:
        """Queries ``(B, N, C)``, keys and values ``(B, M, C)``; one product where all are one."""
        if q is kv:
            return linear(q, self.in_proj_weight, self.in_proj_bias).chunk(3, dim=-1)
        channels = q.shape[-1]
        weight_q, weight_kv = self.in_proj_weight.split([channels, 2 * channels])
        bias_q, bias_kv = self._split_bias(channels)
        keys, values = linear(kv, weight_kv, bias_kv).chunk(2, dim=-1)
        return linear(q, weight_q, bias_q), keys, values

    def _project_apart(self, x: Tensor) -> list[Tensor]:
        """Queries, keys and values ``(B, N, C)`` by a product each."""
        weights = self.in_proj_weight.chunk(3)
        biases = [None] * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        return [linear(x, weight, bias) for weight, bias in zip(weights, biases)]

    def _split_bias(self, channels: int) -> tuple[Tensor | None, Tensor | None]:
        if self.in_proj_bias is None:
            return None, None
        bias_q, bias_kv = self.in_proj_bias.split([channels, 2 * channels])
        return bias_q, bias_kv

    def _heads(self, x: Tensor) -> Tensor:
        heads: Tensor = x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        return heads  # (B, heads, N, d)


class MergedGroups(NamedTuple):
    """What one attention merged; None where it merged nothing.

    Args:
        q: Groups of the queries on their grid.
        kv: Groups of the keys and values on the reduced grid.
    """

    q: TokenAssignment | None = None
    kv: TokenAssignment | None = None


class MergingAttention(nn.Module):
    """Attention with spatial reduction, whatever its parameters are, and tokens merged around it.

    Queries are merged from the input, keys and values after the reduction and its norm; the result
    is unmerged to the full grid. The output projection acts on the merged tokens: it commutes with
    copying and to interpolating.

    A subclass has ``merging``, the :class:`mmtokmerge.merging.StageMerging` that acts,
    :meth:`attend` and :meth:`reduce`.
    """

    merging: StageMerging

    def forward(
        self,
        x: Tensor,
        hw: tuple[int, int],
        groups: MergedGroups | None = None,
        onto: Tensor | None = None,
    ) -> tuple[Tensor, MergedGroups]:
        """Attend among the tokens of a grid.

        Args:
            x: ``(B, h*w, C)``.
            hw: The grid ``(h, w)``.
            groups: What an earlier attention of the stage returned, used again; None makes it anew.
            onto: ``(B, h*w, C)`` that the result is added to while it is unmerged, without
                gradients; None adds it to nothing.

        Returns:
            ``(B, h*w, C)`` and the groups that were merged.
        """
        if is_jit_traced() and (self.merging.q is not None or self.merging.kv is not None):
            x, hw = hold_grid(x, hw)
        kv, kv_hw = self.reduce(x, hw)
        if groups is None:
            groups = self._match(x, hw, kv, kv_hw)
        if is_traced():
            self._report(groups, hw, kv_hw)
        bias = None
        if groups.kv is not None:
            kv = groups.kv.merge(kv)
            if self.merging.proportional:
                bias = groups.kv.sizes.float().log()[:, None, None]  # (B, 1, 1, M)
        if groups.q is None:
            y = self.attend(x, kv, bias)
            return (y if onto is None else residual(onto, y)), groups
        y = self.attend(groups.q.merge(x), kv, bias)
        return (groups.q.unmerge(y) if onto is None else groups.q.unmerge_onto(y, onto)), groups

    def _match(
        self, x: Tensor, hw: tuple[int, int], kv: Tensor, kv_hw: tuple[int, int]
    ) -> MergedGroups:
        q_matcher, kv_matcher = self.merging.q, self.merging.kv
        return MergedGroups(
            None if q_matcher is None else q_matcher.assign(x, hw),
            None if kv_matcher is None else kv_matcher.assign(kv, kv_hw),
        )

    def _report(self, groups: MergedGroups, hw: tuple[int, int], kv_hw: tuple[int, int]) -> None:
        for part, found, grid in ((QUERIES, groups.q, hw), (KEYS, groups.kv, kv_hw)):
            if found is None:
                found = TokenAssignment.identity(grid[0] * grid[1])
            report(self, part, found, grid)

    @abstractmethod
    def attend(self, q: Tensor, kv: Tensor, bias: Tensor | None) -> Tensor:
        """Attend from ``q (B, N, C)`` to ``kv (B, M, C)``, output projection included."""

    @abstractmethod
    def reduce(self, x: Tensor, hw: tuple[int, int]) -> tuple[Tensor, tuple[int, int]]:
        """Reduce tokens ``(B, h*w, C)`` to the keys' grid; returns ``(B, M, C)`` and that grid."""


class EfficientAttention(MergingAttention):
    """SegFormer's attention: keys and values spatially reduced, then tokens merged around it.

    Args:
        embed_dims: Channels C.
        num_heads: Heads.
        sr_ratio: Reduction R of the grid of keys and values, equation 4; 1 reduces nothing.
        merging: What to merge.
        qkv_bias: Whether the projections have a bias.
        attn_drop: Dropout of the attention weights.
        norm_layer: Makes the norm after the reduction from its channels.
        fused: See :func:`attend`.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        sr_ratio: int = 1,
        merging: StageMerging | None = None,
        qkv_bias: bool = True,
        attn_drop: float = 0.0,
        norm_layer: Callable[[int], nn.Module] = nn.LayerNorm,
        fused: bool = True,
    ) -> None:
        super().__init__()
        self.merging = merging if merging is not None else StageMerging()
        self.sr_ratio = sr_ratio
        self.attn = MultiheadAttention(embed_dims, num_heads, qkv_bias, attn_drop, fused)
        if sr_ratio > 1:
            self.sr = nn.Conv2d(embed_dims, embed_dims, sr_ratio, sr_ratio)
            self.norm = norm_layer(embed_dims)

    def attend(self, q: Tensor, kv: Tensor, bias: Tensor | None) -> Tensor:
        """See :class:`MultiheadAttention`, which is called."""
        out: Tensor = self.attn(q, kv, bias)
        return out

    def reduce(self, x: Tensor, hw: tuple[int, int]) -> tuple[Tensor, tuple[int, int]]:
        """Reduce tokens ``(B, h*w, C)`` to the keys' grid; returns ``(B, M, C)`` and that grid.

        A grid with a side below the reduction is padded with zeros to one cell.
        """
        if self.sr_ratio == 1:
            return x, hw
        return reduce_grid(x, hw, self.sr, self.norm, self.sr_ratio, self.merging.kv is not None)


def reduce_grid(
    x: Tensor, hw: tuple[int, int], sr: nn.Module, norm: nn.Module, ratio: int, merges: bool
) -> tuple[Tensor, tuple[int, int]]:
    """Tokens ``(B, h*w, C)`` through the strided convolution ``sr`` and a norm.

    A grid with a side below the reduction is padded with zeros to one cell.

    Args:
        x: The tokens.
        hw: Their grid.
        sr: Convolution of stride ``ratio``.
        norm: The norm of the reduced tokens.
        ratio: R, equation 4.
        merges: Whether the reduced tokens merge, so that a trace holds for this grid alone.
    """
    grid = to_map(x, hw)
    short = [max(0, ratio - side) for side in hw]
    if any(short):
        if is_jit_traced():  # which keeps the padding of this grid
            grid = to_map(*hold_grid(x, hw))
        grid = F.pad(grid, (0, short[1], 0, short[0]))
    reduced = sr(grid)
    kv_hw = (reduced.shape[2], reduced.shape[3])
    if merges and is_jit_traced():
        kv_hw = (int(kv_hw[0]), int(kv_hw[1]))
    return call_norm(norm, to_tokens(reduced)), kv_hw
