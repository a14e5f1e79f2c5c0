"""Multi-scale deformable attention (Zhu et al. 2021, equation 3), in torch alone.

Each query looks at a few points of each of several maps, bilinearly, at places that it chooses
itself; so its cost does not depend on the maps' sizes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmtokmerge.checks import whole_number
from mmtokmerge.errors import InputError
from mmtokmerge.kernels.plain import call_linear

Shapes = Sequence[tuple[int, int]]
Sampler = Callable[[Tensor, Shapes, Tensor, Tensor], Tensor]


def sample(value: Tensor, shapes: Shapes, places: Tensor, weights: Tensor) -> Tensor:
    """Weighted sums of values at places of several maps.

    Args:
        value: ``(B, S, heads, d)``, the tokens of all maps after one another.
        shapes: ``(h, w)`` of each map; their areas sum to S.
        places: ``(B, Q, heads, L, P, 2)`` x and y, from 0 to 1 over each of L maps; zeros lie
            outside.
        weights: ``(B, Q, heads, L, P)``.

    Returns:
        ``(B, Q, heads * d)``.
    """
    batch, _, heads, width = value.shape
    queries = places.shape[1]
    grids = 2 * places - 1
    taken = []
    for level, (part, shape) in enumerate(
        zip(value.split([h * w for h, w in shapes], dim=1), shapes, strict=True)
    ):
        maps = part.flatten(2).transpose(1, 2).reshape(batch * heads, width, *shape)
        grid = grids[:, :, :, level].transpose(1, 2).flatten(0, 1)  # (B*heads, Q, P, 2)
        taken.append(
            F.grid_sample(maps, grid.to(maps.dtype), mode="bilinear", align_corners=False)
        )  # (B*heads, d, Q, P)
    points = torch.cat(taken, dim=-1)  # (B*heads, d, Q, L*P)
    shares = weights.transpose(1, 2).reshape(batch * heads, 1, queries, -1).to(points.dtype)
    summed = (points * shares).sum(-1).view(batch, heads * width, queries)
    return summed.transpose(1, 2)


_sampler: list[Sampler] = [sample]


def use_sampler(sampler: Sampler) -> None:
    """Let another function with :func:`sample`'s arguments and result do its work on CUDA."""
    _sampler[0] = sampler


class DeformableAttention(nn.Module):
    """Queries attend to a few places around their own in several maps.

    Parameters are named as in mmcv's ``MultiScaleDeformableAttention``.

    Args:
        embed_dims: Channels C.
        num_heads: Heads, a divisor of the values' channels.
        num_levels: Maps L.
        num_points: Places P in each map.
        value_ratio: Channels of the values over C.

    Raises:
        ValueError: If a number is out of range, or the heads do not divide the values' channels.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        num_levels: int,
        num_points: int = 4,
        value_ratio: float = 1.0,
    ) -> None:
        super().__init__()
        for name, number in (
            ("num_heads", num_heads),
            ("num_levels", num_levels),
            ("num_points", num_points),
        ):
            whole_number(name, number, 1)
        channels = int(embed_dims * value_ratio)
        if channels < 1 or channels % num_heads:
            raise InputError(
                f"num_heads={num_heads} must divide the values' channels, {channels}: "
                f"{embed_dims} times value_ratio={value_ratio}"
            )
        self.num_heads, self.num_levels, self.num_points = num_heads, num_levels, num_points
        places = num_heads * num_levels * num_points
        self.sampling_offsets = nn.Linear(embed_dims, 2 * places)
        self.attention_weights = nn.Linear(embed_dims, places)
        self.value_proj = nn.Linear(embed_dims, channels)
        self.output_proj = nn.Linear(channels, embed_dims)
        self.init_weights()

    def init_weights(self) -> None:
        """Offsets in a direction for each head, a pixel farther for each point; even weights."""
        nn.init.zeros_(self.sampling_offsets.weight)
        angles = torch.arange(self.num_heads, dtype=torch.float32) * (2 * math.pi / self.num_heads)
        rays = torch.stack([angles.cos(), angles.sin()], dim=-1)
        rays = rays / rays.abs().amax(-1, keepdim=True)  # (heads, 2)
        steps = torch.arange(1, self.num_points + 1, dtype=torch.float32)
        offsets = rays[:, None, None] * steps[:, None]  # (heads, 1, P, 2)
        offsets = offsets.expand(-1, self.num_levels, -1, -1)
        if not self.sampling_offsets.bias.is_meta:
            with torch.no_grad():
                self.sampling_offsets.bias.copy_(offsets.reshape(-1))
        for layer in (self.attention_weights, self.value_proj, self.output_proj):
            nn.init.zeros_(layer.bias)
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.xavier_uniform_(self.value_proj.weight)
        nn.init.xavier_uniform_(self.output_proj.weight)

    def forward(self, query: Tensor, value: Tensor, places: Tensor, shapes: Shapes) -> Tensor:
        """Attend.

        Args:
            query: ``(B, Q, C)``.
            value: ``(B, S, C)`` of all maps after one another.
            places: ``(Q, 2)`` x and y of each query, from 0 to 1.
            shapes: ``(h, w)`` of each of the L maps.

        Returns:
            ``(B, Q, C)``.

        Raises:
            ValueError: If the maps are not L, or do not hold the values.
        """
        if len(shapes) != self.num_levels or sum(h * w for h, w in shapes) != value.shape[1]:
            raise InputError(
                f"shapes {list(shapes)} must be {self.num_levels} maps that hold "
                f"{value.shape[1]} tokens"
            )
        values = call_linear(self.value_proj, value).unflatten(2, (self.num_heads, -1))
        of_each = (self.num_heads, self.num_levels, self.num_points)
        offsets = call_linear(self.sampling_offsets, query).unflatten(2, (*of_each, 2))
        weights = call_linear(self.attention_weights, query).unflatten(2, (self.num_heads, -1))
        weights = weights.softmax(-1).unflatten(3, of_each[1:])
        sizes = places.new_tensor([(w, h) for h, w in shapes])  # (L, 2), x first
        where = places[:, None, None, None] + offsets / sizes[:, None]
        sampler = _sampler[0] if value.is_cuda else sample
        return call_linear(self.output_proj, sampler(values, shapes, where, weights))


def centres(shape: tuple[int, int], device: torch.device, dtype: torch.dtype) -> Tensor:
    """``(h * w, 2)`` x and y of the middle of each place of a map, from 0 to 1."""
    h, w = shape
    y = (torch.arange(h, device=device, dtype=dtype) + 0.5) / h
    x = (torch.arange(w, device=device, dtype=dtype) + 0.5) / w
    return torch.stack([x.expand(h, -1), y[:, None].expand(-1, w)], dim=-1).flatten(0, 1)
