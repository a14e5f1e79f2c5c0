"""The threshold of ALGM from the similarities of the unmerged model (section 3.3)."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mmtokmerge.analysis.plain_vit import auto_reducers
from mmtokmerge.measure.inputs import network_inputs
from mmtokmerge.merging.similarity_statistics import CosineStatistics
from mmtokmerge.merging.trace import LayerTokens, trace
from mmtokmerge.models.overrides import without_merging
from mmtokmerge.reporting.files import write_bytes


@dataclass(frozen=True)
class Calibration:
    """Statistics of the cosines of all token pairs of an image, after each attention block.

    Args:
        layers: The statistics of each layer, counted from 1.
        images: How many images were seen.
    """

    layers: Mapping[int, CosineStatistics]
    images: int

    def pooled(self, layers: Iterable[int] | None = None) -> CosineStatistics:
        """All pairs of these layers together; of every layer where None."""
        everything = CosineStatistics()
        for layer in self.layers if layers is None else layers:
            everything.merge(self.layers[layer])
        return everything

    def taus(self, backbone: nn.Module, per_reducer: bool) -> dict[int, float]:
        """mu + sigma for each reducer with ``threshold='auto'``, by its index.

        Args:
            backbone: A plain ViT of this project.
            per_reducer: Take the pairs of the reducer's own layers alone, not of all.
        """
        return {
            index: threshold(self.pooled(reducer.layers if per_reducer else None))
            for index, reducer in auto_reducers(backbone).items()
        }


def threshold(statistics: CosineStatistics) -> float:
    """Tau = mu + sigma (section 3.3)."""
    return statistics.mean + statistics.std


@torch.no_grad()
def calibrate(
    model: nn.Module,
    samples: Iterable[dict[str, Any]],
    advance: Callable[[], None] = lambda: None,
) -> Calibration:
    """Stream the cosines of the model without merging.

    Args:
        model: A segmentor with a plain ViT, in eval mode.
        samples: Batches of one image.
        advance: Called after each image.
    """
    layers: dict[int, CosineStatistics] = {}
    images = 0

    def observe(seen: LayerTokens) -> None:
        layers.setdefault(seen.layer, CosineStatistics()).update(seen.tokens)

    with without_merging(model), trace(model, observe):
        for batch in samples:
            for image in network_inputs(model, batch):
                model.backbone(image)
            images += 1
            advance()
    return Calibration(layers, images)


def save_calibrated(
    path: Path,
    content: Mapping[str, Any],
    taus: Mapping[int, float],
    meta: Mapping[str, Any],
    within: str = "",
) -> None:
    """Write the weights of a checkpoint with thresholds beside them, whole or not at all.

    Args:
        path: The new file.
        content: The checkpoint that was calibrated; its optimizer and the like stay behind.
        taus: The threshold of each reducer, by its index.
        meta: Goes under ``meta.calibration``.
        within: What stands between the backbone's name and the reducers', 'vit.' in an adapter.

    Raises:
        InputError: If it cannot be written.
    """
    weights = copy.copy(content.get("state_dict", content))  # with torch's metadata
    prefix = "module." if any(key.startswith("module.") for key in weights) else ""
    for index, tau in taus.items():
        weights[f"{prefix}backbone.{within}reducers.{index}.tau"] = torch.tensor(tau)
    kept = content.get("meta") if "state_dict" in content else None
    buffer = io.BytesIO()
    torch.save({"meta": {**(kept or {}), "calibration": dict(meta)}, "state_dict": weights}, buffer)
    write_bytes(path, buffer.getvalue())
