"""The parts of ViT-Adapter (Chen et al. 2023): a spatial prior, injectors and extractors.

Parameters are named as in the published checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from mmtokmerge.kernels.plain import call_linear
from mmtokmerge.layers.deformable_attention import DeformableAttention, Shapes
from mmtokmerge.layers.drop_path import DropPath

Norm = Callable[[int], nn.Module]


class SpatialPrior(nn.Module):
    """A small convolutional network: maps of 1/4, 1/8, 1/16 and 1/32 of an image.

    Args:
        stem_channels: Channels of its first convolutions; the paper's 64.
        embed_dims: Channels C of each map.
        norm: Makes a norm of 2D maps from its channels.
        in_channels: Channels of the image.
    """

    def __init__(
        self, stem_channels: int, embed_dims: int, norm: Norm, in_channels: int = 3
    ) -> None:
        super().__init__()
        first = stem_channels

        def block(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
            conv = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
            return [conv, norm(outputs), nn.ReLU(inplace=True)]

        self.stem = nn.Sequential(
            *block(in_channels, first, 2),
            *block(first, first, 1),
            *block(first, first, 1),
            nn.MaxPool2d(3, 2, 1),
        )
        self.conv2 = nn.Sequential(*block(first, 2 * first, 2))
        self.conv3 = nn.Sequential(*block(2 * first, 4 * first, 2))
        self.conv4 = nn.Sequential(*block(4 * first, 4 * first, 2))
        for number, channels in enumerate((first, 2 * first, 4 * first, 4 * first), 1):
            setattr(self, f"fc{number}", nn.Conv2d(channels, embed_dims, 1))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Images ``(B, 3, H, W)`` to four maps ``(B, C, h, w)``."""
        found = []
        for number, part in enumerate((self.stem, self.conv2, self.conv3, self.conv4), 1):
            x = part(x)
            found.append(getattr(self, f"fc{number}")(x))
        return found


class DepthwiseConv(nn.Module):
    """A 3x3 depthwise convolution over each of several maps."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(channels, channels, 3, 1, 1, groups=channels)

    def forward(self, x: Tensor, shapes: Shapes) -> Tensor:
        """Tokens ``(B, S, C)`` of maps of the given shapes after one another."""
        parts = x.transpose(1, 2).split([h * w for h, w in shapes], dim=2)
        maps = [self.dwconv(part.unflatten(2, shape)) for part, shape in zip(parts, shapes)]
        whole: Tensor = torch.cat([each.flatten(2) for each in maps], dim=2).transpose(1, 2)
        return whole


class ConvFFN(nn.Module):
    """Two linear layers with a depthwise convolution between them."""

    def __init__(self, embed_dims: int, hidden: int, drop: float = 0.0) -> None:
        super().__init__()
        self.fc1 = nn.Linear(embed_dims, hidden)
        self.dwconv = DepthwiseConv(hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, embed_dims)
        self.drop = nn.Dropout(drop)

    def forward(self, x: Tensor, shapes: Shapes) -> Tensor:
        """Tokens ``(B, S, C)`` of maps of the given shapes after one another."""
        hidden = self.dwconv(call_linear(self.fc1, x), shapes)
        out: Tensor = self.drop(call_linear(self.fc2, self.drop(self.act(hidden))))
        return out


class Injector(nn.Module):
    """What the maps know goes into the ViT's patches, scaled by ``gamma``, 0 at first.

    Args:
        embed_dims: Channels C.
        norm: Makes a norm of tokens from its channels.
        init_values: What gamma begins with.
        num_heads: Heads of the deformable attention.
        num_points: Points of the deformable attention in each map.
        value_ratio: Channels of its values over C.
        num_levels: Maps.
    """

    def __init__(
        self,
        embed_dims: int,
        norm: Norm,
        init_values: float,
        num_heads: int,
        num_points: int,
        value_ratio: float,
        num_levels: int = 3,
    ) -> None:
        super().__init__()
        self.query_norm = norm(embed_dims)
        self.feat_norm = norm(embed_dims)
        self.attn = DeformableAttention(embed_dims, num_heads, num_levels, num_points, value_ratio)
        self.gamma = nn.Parameter(init_values * torch.ones(embed_dims))

    def forward(self, patches: Tensor, places: Tensor, maps: Tensor, shapes: Shapes) -> Tensor:
        """Patches ``(B, N, C)`` at their places ``(N, 2)``, maps ``(B, S, C)``, to patches."""
        change = self.attn(self.query_norm(patches), self.feat_norm(maps), places, shapes)
        injected: Tensor = patches + self.gamma * change
        return injected


class Extractor(nn.Module):
    """What the ViT's patches know goes into the maps, then a convolutional FFN.

    Args:
        embed_dims: Channels C.
        norm: Makes a norm of tokens from its channels.
        num_heads: Heads of the deformable attention.
        num_points: Points of the deformable attention in each map.
        value_ratio: Channels of its values over C.
        ffn_ratio: Hidden channels of the FFN over C.
        drop: Dropout of the FFN.
        drop_path: Stochastic depth of the FFN.
    """

    def __init__(
        self,
        embed_dims: int,
        norm: Norm,
        num_heads: int,
        num_points: int,
        value_ratio: float,
        ffn_ratio: float,
        drop: float = 0.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.query_norm = norm(embed_dims)
        self.feat_norm = norm(embed_dims)
        self.attn = DeformableAttention(embed_dims, num_heads, 1, num_points, value_ratio)
        self.ffn = ConvFFN(embed_dims, int(embed_dims * ffn_ratio), drop)
        self.ffn_norm = norm(embed_dims)
        self.drop_path = DropPath(drop_path)

    def forward(
        self,
        maps: Tensor,
        places: Tensor,
        shapes: Shapes,
        patches: Tensor,
        grid: tuple[int, int],
    ) -> Tensor:
        """Maps ``(B, S, C)`` at their places ``(S, 2)``, patches ``(B, N, C)``, to maps."""
        maps = maps + self.attn(self.query_norm(maps), self.feat_norm(patches), places, [grid])
        fed: Tensor = maps + self.drop_path(self.ffn(self.ffn_norm(maps), shapes))
        return fed


class Interaction(nn.Module):
    """An injector ahead of some of the ViT's layers, and extractors behind them."""

    def __init__(
        self, injector: Injector, extractor: Extractor, extra: Sequence[Extractor] = ()
    ) -> None:
        super().__init__()
        self.injector = injector
        self.extractor = extractor
        self.extra_extractors = nn.ModuleList(extra) if extra else None
