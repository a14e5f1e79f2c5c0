"""EVA: BEiT with position embeddings beside its relative positions, and its giant size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from mmtokmerge.layers.vit_archs import VIT_ARCHS
from mmtokmerge.models.backbones.beit import BEiT
from mmtokmerge.models.backbones.vision_transformer import VisionTransformer
from mmtokmerge.registry import MODELS


@MODELS.register_module()
class EVA(BEiT):
    """EVA-01's encoder (Fang et al. 2023), which merges as :class:`mmtokmerge.BEiT` does.

    The published segmentors have patches of 16 pixels, interpolated from 14, and an MLP of 6,144
    channels, a ``mlp_ratio`` of 4.3637.

    Args:
        arch: 'g' (40 layers of 1,408 channels, 16 heads), any of the plain ViT's, or a dict with
            ``embed_dims``, ``num_layers``, ``num_heads``.
        init_values: What the scales of the residuals begin with; EVA's are 1.
        **kwargs: Arguments of :class:`mmtokmerge.BEiT`.

    Raises:
        TypeError: If a setting has the wrong type.
        ValueError: If a setting is unknown, out of range or would do nothing.
    """

    archs: ClassVar[Mapping[str, Mapping[str, int]]] = {
        **VIT_ARCHS,
        "g": dict(embed_dims=1408, num_layers=40, num_heads=16),
    }

    def __init__(
        self, arch: str | Mapping[str, int] = "g", init_values: float = 1.0, **kwargs: Any
    ) -> None:
        super().__init__(arch=arch, init_values=init_values, **kwargs)

    def _build_positions(self, grid: tuple[int, int], interpolate_mode: str) -> None:
        VisionTransformer._build_positions(self, grid, interpolate_mode)

    def _positions(self, hw: tuple[int, int]) -> tuple[Tensor | None, Tensor | None]:
        return VisionTransformer._positions(self, hw)

    def fit_positions(
        self,
        weights: dict[str, Tensor],
        prefix: str,
        grid: tuple[int, int] | None = None,
        published: bool = False,
    ) -> tuple[int, int] | None:
        """Resize both kinds of positions of a checkpoint to this grid, in place; see the base."""
        absolute = VisionTransformer.fit_positions(self, weights, prefix, grid, published)
        relative = super().fit_positions(weights, prefix, grid or absolute, published)
        return absolute or relative
