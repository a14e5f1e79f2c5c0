"""BEiT, with tokens shared (CTS) and merged (ALGM) where a config says."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from mmtokmerge.checks import number_in
from mmtokmerge.layers import BEiTLayer, RelativePositions
from mmtokmerge.layers.relative_position_table import NUM_CLASS, count_rows, read_table
from mmtokmerge.layers.token_reduction import TokenReduction
from mmtokmerge.layers.vit_archs import VIT_ARCHS
from mmtokmerge.models.backbones.vision_transformer import VisionTransformer
from mmtokmerge.registry import MODELS

SHARED_TABLE = "rel_pos_bias.relative_position_bias_table"


@MODELS.register_module()
class BEiT(VisionTransformer):
    """BEiT with the state dict of mmseg's ``BEiT``, and its features.

    Instead of position embeddings each layer's attention has a bias for each relative position. A
    token that stands for several patches has the mean of theirs, as a query and as a key. For other
    grids than that of ``img_size``, at load and at run time, the biases are interpolated as mmseg
    does where a grid grows, and cut where it shrinks.

    Args:
        arch: 'b' or 'l', or a dict with ``embed_dims``, ``num_layers``, ``num_heads``.
        img_size: Image that the relative position biases are kept for, an int or (h, w), in pixels.
        patch_size: Side of a patch in pixels.
        reducers: See :class:`mmtokmerge.VisionTransformer`.
        sharing: See :class:`mmtokmerge.VisionTransformer`.
        proportional: See :class:`mmtokmerge.VisionTransformer`.
        calibration: See :class:`mmtokmerge.VisionTransformer`.
        in_channels: Channels of the image.
        mlp_ratio: Hidden channels of the MLP over C.
        out_indices: Layers, counted from 0, whose output is returned; -1 is the last.
        out_type: 'map' or 'tokens', see :class:`mmtokmerge.VisionTransformer`.
        qv_bias: Whether the attention's queries and values have a bias.
        init_values: What the scales of the residuals begin with.
        attn_drop_rate: Dropout of the attention weights.
        drop_path_rate: Stochastic depth of the last layer; grows linearly from 0.
        norm_cfg: mmcv's config of the norms.
        act_cfg: mmcv's config of the MLP's activation.
        patch_norm: A norm after the patch embedding.
        final_norm: A norm after the last layer.
        fused_attention: Use fused attention kernels, see :func:`mmtokmerge.layers.attend`; False
            spells the softmax out.
        with_cp: Recompute each layer in the backward pass to save memory.
        pretrained: See :class:`mmtokmerge.VisionTransformer`.
        init_cfg: MMEngine's initialisation; 'Pretrained' resizes the relative position biases.

    Raises:
        TypeError: If a setting has the wrong type.
        ValueError: If a setting is unknown, out of range or would do nothing.
    """

    archs: ClassVar[Mapping[str, Mapping[str, int]]] = {key: VIT_ARCHS[key] for key in ("b", "l")}

    def __init__(
        self,
        arch: str | Mapping[str, int] = "b",
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        reducers: Sequence[Mapping[str, Any]] = (),
        sharing: Mapping[str, Any] | None = None,
        proportional: bool = False,
        calibration: str | None = None,
        in_channels: int = 3,
        mlp_ratio: int = 4,
        out_indices: int | Sequence[int] = -1,
        out_type: str = "map",
        qv_bias: bool = True,
        init_values: float = 0.1,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        norm_cfg: Mapping[str, Any] | None = None,
        act_cfg: Mapping[str, Any] | None = None,
        patch_norm: bool = False,
        final_norm: bool = False,
        fused_attention: bool = True,
        with_cp: bool = False,
        pretrained: str | None = None,
        init_cfg: dict[str, Any] | list[dict[str, Any]] | None = None,
    ) -> None:
        number_in("init_values", init_values, -1e3, 1e3)
        super().__init__(
            arch=arch,
            img_size=img_size,
            patch_size=patch_size,
            reducers=reducers,
            sharing=sharing,
            proportional=proportional,
            calibration=calibration,
            in_channels=in_channels,
            mlp_ratio=mlp_ratio,
            out_indices=out_indices,
            out_type=out_type,
            qkv_bias=qv_bias,
            attn_drop_rate=attn_drop_rate,
            drop_path_rate=drop_path_rate,
            norm_cfg=norm_cfg,
            act_cfg=act_cfg,
            patch_norm=patch_norm,
            final_norm=final_norm,
            fused_attention=fused_attention,
            with_cp=with_cp,
            pretrained=pretrained,
            init_cfg=init_cfg,
        )
        for layer in self.layers:
            nn.init.constant_(layer.gamma_1, init_values)
            nn.init.constant_(layer.gamma_2, init_values)

    def _build_positions(self, grid: tuple[int, int], interpolate_mode: str) -> None:
        del interpolate_mode  # there are no position embeddings

    def _build_layer(self, grid: tuple[int, int], **settings: Any) -> nn.Module:
        return BEiTLayer(grid=grid, **settings)

    def _positions(self, hw: tuple[int, int]) -> tuple[Tensor | None, Tensor | None]:
        return None, None

    def _attn_inputs(self, flow: TokenReduction, tokens: Tensor) -> tuple[RelativePositions, None]:
        keys = flow.key_bias(tokens)
        positions = RelativePositions.of(
            flow.grid, flow.assignment, flow.only_shared, keys, tokens.device
        )
        return positions, None

    def _fit_published(self, weights: dict[str, Any], grid: tuple[int, int] | None = None) -> None:
        """Give each layer the table that they share in pretraining; resize square ones.

        Weights fine-tuned for classification have no final norm: it then begins as the identity.
        """
        if self.ln1 is not None:
            for leaf, value in self.ln1.state_dict().items():
                weights.setdefault(f"ln1.{leaf}", weights.pop(f"norm.{leaf}", value))
        shared = weights.pop(SHARED_TABLE, None)
        weights.pop("rel_pos_bias.relative_position_index", None)
        for index in range(len(self.layers)):
            if shared is not None:
                weights.setdefault(_table_key("", index), shared)
        self.fit_positions(weights, "", grid, published=True)

    def fit_positions(
        self,
        weights: dict[str, Tensor],
        prefix: str,
        grid: tuple[int, int] | None = None,
        published: bool = False,
    ) -> tuple[int, int] | None:
        """Resize a checkpoint's relative position biases to this grid, in place; see the base."""
        rows, guessed = count_rows(self.grid), None
        for index in range(len(self.layers)):
            key = _table_key(prefix, index)
            found = weights.get(key)
            if found is None:
                continue
            own = grid
            square = math.isqrt(max(len(found) - NUM_CLASS, 0)) ** 2 + NUM_CLASS == len(found)
            if own is None and len(found) == rows and not (published and square):
                own = guessed = self.grid
            if own != self.grid:
                weights[key] = read_table(found, self.grid, own)
        return guessed


def _table_key(prefix: str, layer: int) -> str:
    return f"{prefix}layers.{layer}.attn.relative_position_bias_table"
