"""Attention-to-mask: a decoder layer whose attention from classes to tokens is their masks."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from mmtokmerge.kernels.attention import attend
from mmtokmerge.kernels.plain import call_linear
from mmtokmerge.layers.mlp import MLP
from mmtokmerge.layers.self_attention import SelfAttention


class AttentionToMask(nn.Module):
    """Classes attend to each other and then to tokens (SegViT, section 3.2).

    The similarity ``S = q k^T / sqrt(d)`` of a class to the tokens is both what the softmax of
    attention takes and, averaged over the heads, the class's mask before the sigmoid. The mean over
    heads of products of d channels is the product of all channels over the number of heads, so the
    masks cost one product and the attention keeps its fused kernel.

    Args:
        embed_dims: Channels C of classes and tokens.
        num_heads: Heads, of d channels each.
        feedforward_channels: Hidden channels of the MLP.
        drop: Dropout of the attention weights, after both attentions and in the MLP.
        fused: See :func:`mmtokmerge.layers.attend`.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        feedforward_channels: int,
        drop: float = 0.0,
        fused: bool = True,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.drop = drop
        self.fused = fused
        self.self_attn = SelfAttention(
            embed_dims, num_heads, attn_drop=drop, proj_drop=drop, fused=fused
        )
        self.norm1 = nn.LayerNorm(embed_dims)
        self.q_proj = nn.Linear(embed_dims, embed_dims)
        self.kv_proj = nn.Linear(embed_dims, 2 * embed_dims)
        self.out_proj = nn.Linear(embed_dims, embed_dims)
        self.norm2 = nn.LayerNorm(embed_dims)
        self.ffn = MLP(embed_dims, feedforward_channels, drop=drop)
        self.norm3 = nn.LayerNorm(embed_dims)

    def forward(
        self, classes: Tensor, tokens: Tensor, bias: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Update the classes and find their masks.

        Args:
            classes: ``(B, K, C)``.
            tokens: ``(B, M, C)``.
            bias: ``(B or 1, M)`` added to the logits of attention, not to the masks; -inf hides a
                token.

        Returns:
            The classes ``(B, K, C)`` and each token's mask logits ``(B, M, K)``.
        """
        classes = self.norm1(classes + self.self_attn(classes)[0])
        q = call_linear(self.q_proj, classes)  # (B, K, C)
        k, v = call_linear(self.kv_proj, tokens).chunk(2, dim=-1)  # (B, M, C)
        y = self._cross_attend(q, k, v, bias)
        classes = self.norm2(classes + F.dropout(y, self.drop, self.training))
        classes = self.norm3(classes + self.ffn(classes))
        scale = (q.shape[-1] // self.num_heads) ** -0.5 / self.num_heads
        return classes, k @ (q * scale).transpose(1, 2)

    def _cross_attend(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        q, k, v = (x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for x in (q, k, v))
        y = attend(
            q,
            k,
            v,
            None if bias is None else bias[:, None, None],
            dropout=self.drop if self.training else 0.0,
            fused=self.fused,
        )
        return call_linear(self.out_proj, y.transpose(1, 2).flatten(2))
