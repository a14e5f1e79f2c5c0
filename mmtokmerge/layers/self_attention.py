"""Self-attention of a plain ViT: one product for queries, keys and values, then a fused kernel."""

from __future__ import annotations

from torch import Tensor, nn

from mmtokmerge.layers.attention import MultiheadAttention


class SelfAttention(nn.Module):
    """Self-attention with the parameters of mmseg's ViT layer, ``attn.in_proj_weight`` and so on.

    Args:
        embed_dims: Channels C of the tokens.
        num_heads: Heads, a divisor of C.
        qkv_bias: Whether the projections have a bias.
        attn_drop: Dropout of the attention weights.
        proj_drop: Dropout after the output projection.
        fused: See :func:`mmtokmerge.layers.attend`.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        qkv_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        fused: bool = True,
    ) -> None:
        super().__init__()
        self.attn = MultiheadAttention(embed_dims, num_heads, qkv_bias, attn_drop, fused)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(
        self, x: Tensor, bias: Tensor | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Attend among tokens.

        Args:
            x: Tokens ``(B, N, C)``.
            bias: Added to the logits, broadcast to ``(B, heads, N, N)``; -inf hides a key.
            lengths: ``(B,)`` int, instead of a bias: how many of each image's tokens, which stand
                first, are not padding, see :func:`mmtokmerge.layers.attend_unpadded`.

        Returns:
            The attended tokens ``(B, N, C)``, and queries, keys and values ``(3, B, heads, N, d)``.

        Raises:
            ValueError: If there are a bias and lengths.
        """
        if bias is not None and lengths is not None:
            raise ValueError("SelfAttention takes either a bias or lengths, got both")
        y, qkv = self.attn(x, bias=bias, lengths=lengths)
        return self.proj_drop(y), qkv
