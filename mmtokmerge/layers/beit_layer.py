"""One layer of BEiT: a relative position bias in its attention, a scale on both residuals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from mmtokmerge.kernels.attention import attend
from mmtokmerge.kernels.linear import linear
from mmtokmerge.kernels.plain import call_linear, is_plain, reuses_memory
from mmtokmerge.kernels.residual import residual
from mmtokmerge.layers.drop_path import DropPath
from mmtokmerge.layers.mlp import MLP
from mmtokmerge.layers.relative_position_bias import RelativePositions, stored_index
from mmtokmerge.layers.relative_position_table import count_rows
from mmtokmerge.layers.token_reduction import LayerReduction

INDEX = "relative_position_index"


class BEiTAttention(nn.Module):
    """Self-attention with the parameters and the state dict of mmseg's ``BEiTAttention``.

    ``relative_position_index``, which is the same in all layers, is in the state dict alone: it
    takes no memory of the device, and a checkpoint may lack it.

    Args:
        embed_dims: Channels C of the tokens.
        num_heads: Heads, a divisor of C.
        grid: The grid ``(H, W)`` that the table of biases is kept for.
        qv_bias: Whether queries and values have a bias; keys have none.
        attn_drop: Dropout of the attention weights.
        proj_drop: Dropout after the output projection.
        fused: See :func:`mmtokmerge.layers.attend`.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        grid: tuple[int, int],
        qv_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        fused: bool = True,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.grid = grid
        self.attn_drop = attn_drop
        self.fused = fused
        self.q_bias = nn.Parameter(torch.zeros(embed_dims)) if qv_bias else None
        self.v_bias = nn.Parameter(torch.zeros(embed_dims)) if qv_bias else None
        self.relative_position_bias_table = nn.Parameter(torch.zeros(count_rows(grid), num_heads))
        self.qkv = nn.Linear(embed_dims, 3 * embed_dims, bias=False)
        self.proj = nn.Linear(embed_dims, embed_dims)
        self.proj_drop = nn.Dropout(proj_drop)
        # torch gives it no types; mmseg's checkpoints hold the index.
        self._register_state_dict_hook(_add_index)  # type: ignore[no-untyped-call]

    def forward(self, x: Tensor, positions: RelativePositions) -> tuple[Tensor, Tensor]:
        """Attend among tokens.

        Args:
            x: Tokens ``(B, N, C)``, the class token first.
            positions: The positions of the tokens.

        Returns:
            The attended tokens ``(B, N, C)``, and queries, keys and values ``(3, B, heads, N, d)``.
        """
        own = None
        if self.q_bias is not None and self.v_bias is not None:
            own = torch.cat([self.q_bias, torch.zeros_like(self.v_bias), self.v_bias])
        if is_plain(self.qkv, nn.Linear):
            qkv = linear(x, self.qkv.weight, own)  # (B, N, 3C)
        else:
            qkv = self.qkv(x) if own is None else self.qkv(x) + own
        qkv = qkv.unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        bias = positions.bias(self.relative_position_bias_table, self.grid, q.dtype)
        dropout = self.attn_drop if self.training else 0.0
        y = attend(q, k, v, bias, dropout=dropout, fused=self.fused)
        return self.proj_drop(call_linear(self.proj, y.transpose(1, 2).flatten(2))), qkv

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        state_dict.pop(prefix + INDEX, None)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


class BEiTLayer(nn.Module):
    """Attention and MLP, each on a norm and a scaled residual, with mmseg's parameters.

    Args:
        embed_dims: Channels C.
        num_heads: Heads.
        feedforward_channels: Hidden channels of the MLP.
        grid: The grid ``(H, W)`` that the relative position biases are kept for.
        qkv_bias: Whether queries and values have a bias.
        drop: Dropout after attention and in the MLP.
        attn_drop: Dropout of the attention weights.
        drop_path: Stochastic depth of both halves.
        norm_layer: Makes a norm from its channels.
        activation: Makes the MLP's activation.
        fused: See :func:`mmtokmerge.layers.attend`.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        feedforward_channels: int,
        grid: tuple[int, int],
        qkv_bias: bool = True,
        drop: float = 0.0,
        attn_drop: float = 0.0,
        drop_path: float = 0.0,
        norm_layer: Callable[[int], nn.Module] = nn.LayerNorm,
        activation: Callable[[], nn.Module] = nn.GELU,
        fused: bool = True,
    ) -> None:
        super().__init__()
        self.gamma_1 = nn.Parameter(torch.ones(embed_dims))
        self.gamma_2 = nn.Parameter(torch.ones(embed_dims))
        self.ln1 = norm_layer(embed_dims)
        self.attn = BEiTAttention(embed_dims, num_heads, grid, qkv_bias, attn_drop, drop, fused)
        self.ln2 = norm_layer(embed_dims)
        self.ffn = MLP(embed_dims, feedforward_channels, activation(), drop)
        self.drop_path = DropPath(drop_path)

    def forward(
        self,
        x: Tensor,
        positions: RelativePositions,
        lengths: None = None,
        reduction: LayerReduction | None = None,
    ) -> Tensor:
        """Both halves; like :meth:`mmtokmerge.layers.ViTLayer.forward`, without lengths."""
        y, qkv = self.attn(self.ln1(x), positions)
        reuse = reuses_memory([self.drop_path], x)
        x = residual(x, self.drop_path(self.gamma_1 * y), reuse=reuse)
        if reduction is not None:
            x = reduction.between(x, qkv)
        branch = self.drop_path(self.gamma_2 * self.ffn(self.ln2(x)))
        x = residual(x, branch, reuse=reuse)
        return x if reduction is None else reduction.after(x, qkv)


def _add_index(module: BEiTAttention, state: dict[str, Any], prefix: str, _: Any) -> None:
    state[prefix + INDEX] = stored_index(module.grid)
