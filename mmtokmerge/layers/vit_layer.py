"""One layer of a plain ViT, whose tokens may be reduced between its two halves and after them."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from mmtokmerge.kernels.norm import call_norm
from mmtokmerge.kernels.plain import reuses_memory
from mmtokmerge.kernels.residual import residual
from mmtokmerge.layers.drop_path import DropPath
from mmtokmerge.layers.mlp import MLP
from mmtokmerge.layers.self_attention import SelfAttention
from mmtokmerge.layers.token_reduction import LayerReduction


class ViTLayer(nn.Module):
    """Attention and MLP, each on a norm and a residual, with the parameters of mmseg's ViT layer.

    Args:
        embed_dims: Channels C.
        num_heads: Heads.
        feedforward_channels: Hidden channels of the MLP.
        qkv_bias: Whether the attention's projections have a bias.
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
        qkv_bias: bool = True,
        drop: float = 0.0,
        attn_drop: float = 0.0,
        drop_path: float = 0.0,
        norm_layer: Callable[[int], nn.Module] = nn.LayerNorm,
        activation: Callable[[], nn.Module] = nn.GELU,
        fused: bool = True,
    ) -> None:
        super().__init__()
        self.ln1 = norm_layer(embed_dims)
        self.attn = SelfAttention(embed_dims, num_heads, qkv_bias, attn_drop, drop, fused)
        self.ln2 = norm_layer(embed_dims)
        self.ffn = MLP(embed_dims, feedforward_channels, activation(), drop)
        self.drop_path = DropPath(drop_path)

    def forward(
        self,
        x: Tensor,
        bias: Tensor | None = None,
        lengths: Tensor | None = None,
        reduction: LayerReduction | None = None,
    ) -> Tensor:
        """``T' = MHSA(T) + T``, then ``T = MLP(T') + T'`` (ALGM, section 3.1).

        Args:
            x: Tokens ``(B, N, C)``.
            bias: Added to the logits, broadcast to ``(B, heads, N, N)``.
            lengths: ``(B,)`` int, instead of a bias: how many of each image's tokens, which stand
                first, are not padding.
            reduction: What reduces the tokens between the two halves and after them.

        Returns:
            Tokens ``(B, N', C)``, fewer where they were reduced.
        """
        reuse = reuses_memory(self.modules(), x)
        y, qkv = self.attn(call_norm(self.ln1, x), bias, lengths)
        x = residual(x, self.drop_path(y), reuse=reuse)
        if reduction is not None:
            x = reduction.between(x, qkv)
        x = residual(x, self.drop_path(self.ffn(call_norm(self.ln2, x))), reuse=reuse)
        return x if reduction is None else reduction.after(x, qkv)
