"""Similarity of tokens by their labels, streamed over images (ALGM, figure 2)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmtokmerge.analysis.similarity.pairs import (
    IGNORED,
    PairMeans,
    resize_labels,
    token_classes,
    window_of,
)
from mmtokmerge.errors import InputError
from mmtokmerge.measure.inputs import normalised, windows
from mmtokmerge.merging.trace import trace
from mmtokmerge.models.overrides import without_merging


@dataclass
class ClassSimilarity:
    """Mean cosines by size of window in layer 1, and by layer over the whole image."""

    windows: dict[int, PairMeans]
    layers: dict[int, PairMeans] = field(default_factory=dict)
    images: int = 0


@torch.no_grad()
def class_similarity(
    model: nn.Module,
    samples: Iterable[dict[str, Any]],
    sizes: Sequence[int],
    majority: bool = False,
    advance: Callable[[], None] = lambda: None,
) -> ClassSimilarity:
    """Compare the tokens after each attention block of the model without merging.

    Args:
        model: A segmentor with a plain ViT, in eval mode.
        samples: Labelled images.
        sizes: Sides of the windows of layer 1, in tokens.
        majority: See :func:`mmtokmerge.analysis.similarity.pairs.token_classes`.
        advance: Called after each image.
    """
    result = ClassSimilarity({size: PairMeans() for size in sizes})
    backbone = model.backbone
    patch = backbone.patch_embed.projection.kernel_size
    for batch in samples:
        image = normalised(model, batch)
        labels = labels_of(batch, image.shape[2:])
        for y, x, h, w in windows(model, image.shape[2:]):
            observer = _Observer(result, labels[y : y + h, x : x + w], patch, majority)
            with without_merging(backbone), trace(backbone, observer):
                backbone(image[:, :, y : y + h, x : x + w])
        result.images += 1
        advance()
    return result


def labels_of(batch: Mapping[str, Any], shape: Sequence[int]) -> Tensor:
    """The labels ``(H, W)`` of a batch of one image at the size ``shape`` of the network's image.

    mmseg resizes the image alone; what is padded on at the bottom and the right is ignored.

    Raises:
        InputError: If the images came without labels.
    """
    sample = batch["data_samples"][0]
    if "gt_sem_seg" not in sample:
        raise InputError("The config's test pipeline loads no labels, which classes come from.")
    labels = resize_labels(sample.gt_sem_seg.data[0], sample.metainfo["img_shape"][:2])
    pad = (0, shape[1] - labels.shape[1], 0, shape[0] - labels.shape[0])
    return F.pad(labels, pad, value=IGNORED)


@dataclass
class _Observer:
    """Adds the tokens of each layer of one network input to the result."""

    result: ClassSimilarity
    labels: Tensor
    patch: tuple[int, int]
    majority: bool

    def __call__(self, observation: Any) -> None:
        tokens, hw = observation.tokens[0], observation.grid
        classes = token_classes(self.labels, hw, self.patch, self.majority).to(tokens.device)
        whole = torch.zeros_like(classes)
        self.result.layers.setdefault(observation.layer, PairMeans()).add(tokens, classes, whole)
        if observation.layer == 1:
            for size, means in self.result.windows.items():
                means.add(tokens, classes, window_of(hw, size, tokens.device))
