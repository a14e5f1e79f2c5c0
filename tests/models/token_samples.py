"""Tokens of images that keep different numbers of them, for tests of the heads."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch import Tensor

from mmtokmerge.layers import TokenFeatures
from mmtokmerge.merging import TokenAssignment


def random_assignment(num_tokens: int, counts: list[int]) -> TokenAssignment:
    """Each image's patches in as many groups as ``counts`` says, padded to the most."""
    most = max(counts)
    groups = torch.stack(
        [
            torch.cat([torch.arange(n), torch.randint(n, (num_tokens - n,))])[
                torch.randperm(num_tokens)
            ]
            for n in counts
        ]
    )
    sizes = torch.stack([torch.bincount(row, minlength=most) for row in groups])
    return TokenAssignment(groups, sizes, padded=min(counts) < most)


def token_features(hw: tuple[int, int], counts: list[int], channels: int) -> TokenFeatures:
    """Random tokens, with large numbers where a row is padding."""
    assignment = random_assignment(hw[0] * hw[1], counts)
    tokens = torch.randn(len(counts), max(counts), channels)
    tokens[assignment.sizes == 0] = 50.0
    return TokenFeatures(tokens, assignment, hw)


def alone(features: TokenFeatures, image: int) -> TokenFeatures:
    """One image of a batch without its padding."""
    groups, sizes = features.assignment.groups, features.assignment.sizes
    kept = int((sizes[image] > 0).sum())
    assignment = TokenAssignment(groups[image : image + 1], sizes[image : image + 1, :kept])
    return TokenFeatures(features.tokens[image : image + 1, :kept], assignment, features.hw)


def alone_on_map(features: TokenFeatures) -> Tensor:
    """The tokens copied to their patches, ``(B, C, h, w)``."""
    groups = features.assignment.groups[..., None].expand(-1, -1, features.tokens.shape[-1])
    return features.tokens.gather(1, groups).unflatten(1, features.hw).permute(0, 3, 1, 2)


def samples(label: Tensor) -> list[Any]:
    """mmseg's samples of labels ``(B, H, W)``."""
    size = tuple(label.shape[1:])
    return [
        SegDataSample(
            gt_sem_seg=PixelData(data=each[None]), metainfo=dict(img_shape=size, pad_shape=size)
        )
        for each in label
    ]
