"""BEiT's relative position bias: of patches, and of tokens that stand for several patches."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from mmtokmerge.layers.relative_position_table import NUM_CLASS, resize_table
from mmtokmerge.merging import TokenAssignment
from mmtokmerge.merging.superpatch_sharing import superpatch_rows

ALIGNMENT = 16  # torch's fused kernels copy a bias whose rows do not begin at such a multiple


@dataclass(frozen=True, eq=False)
class RelativePositions:
    """Where a class token and the patches' tokens stand to each other, the same for all layers.

    A token that stands for several patches has the mean of their biases, as a query and as a key.

    Args:
        hw: Grid ``(h, w)`` of the patches.
        index: ``(B or 1, T, T')`` rows of the table in each pair's place, T' padded. T is the class
            token, and the patches or what :func:`mmtokmerge.merging.superpatch_sharing` left.
        num_tokens: T.
        shared: Whether superpatches are among the T.
        merged: What stands together where other tokens than whole superpatches do: T is then
            the class token and all the patches.
        keys: ``(B, 1, 1, 1 + M)`` what the logits gain besides.
    """

    hw: tuple[int, int]
    index: Tensor
    num_tokens: int
    shared: bool = False
    merged: TokenAssignment | None = None
    keys: Tensor | None = None

    @classmethod
    def of(
        cls,
        hw: tuple[int, int],
        state: TokenAssignment | None,
        superpatches: bool,
        keys: Tensor | None,
        device: torch.device,
    ) -> RelativePositions:
        """Those of the tokens that ``state`` left of the patches; None if all stand alone.

        Args:
            hw: Grid of the patches.
            state: What stands together.
            superpatches: Whether that is nothing but whole superpatches.
            keys: What the logits gain besides, ``(B, 1, 1, 1 + M)``.
            device: The device of the tokens.
        """
        rows = superpatch_rows(state, hw) if state is not None and superpatches else None
        merged = None if state is None or superpatches else _after_class_token(state)
        index = pair_index(hw, rows, device)
        length = index.shape[-1]
        index = F.pad(index, (0, -length % ALIGNMENT))
        return cls(hw, index, length, rows is not None, merged, keys)

    def bias(self, table: Tensor, grid: tuple[int, int], dtype: torch.dtype) -> Tensor:
        """One layer's bias.

        Args:
            table: ``((2H - 1) * (2W - 1) + 3, heads)`` of a grid ``(H, W)``.
            grid: The grid of the table.
            dtype: The type of the result.

        Returns:
            ``(B or 1, heads, 1 + M, 1 + M)``, added to the logits; in fp32 where keys add to it.
        """
        table = table.to(torch.promote_types(table.dtype, torch.float32))
        maps = resize_table(table[:-NUM_CLASS], grid, self.hw)  # (heads, 2h - 1, 2w - 1)
        levels = pool_twice(maps) if self.shared else [maps]
        values = torch.cat([*(x.flatten(1) for x in levels), table[-NUM_CLASS:].t()], dim=1)
        if self.merged is None:
            values = values.to(dtype)
        found = values.index_select(1, self.index.flatten()).unflatten(1, self.index.shape)
        bias: Tensor = found.transpose(0, 1)[..., : self.num_tokens]
        if self.merged is not None:
            bias = mean_over_members(bias, self.merged).to(dtype)
        return bias if self.keys is None else bias + self.keys


def pair_index(hw: tuple[int, int], rows: Tensor | None, device: torch.device | str) -> Tensor:
    """Which row of a table each pair of tokens takes; class token first, queries before keys.

    Patches alone take BEiT's table of ``(2h - 1) * (2w - 1) + 3`` rows. With superpatches there are
    the three maps of :func:`pool_twice` ahead of its last three rows: a pair of patches looks into
    the first, one with a superpatch into the second, two superpatches into the third.

    Args:
        hw: Grid of the patches.
        rows: ``(B, M)`` of :func:`mmtokmerge.merging.superpatch_sharing.superpatch_rows`; None for
            all patches alone.
        device: The device of the result.

    Returns:
        ``(B or 1, 1 + M, 1 + M)`` int64.
    """
    (h, w), stride = hw, 2 * hw[1] - 1
    size = (2 * h - 1) * stride
    places = torch.arange(h, device=device)[:, None] * stride + torch.arange(w, device=device)
    queries, keys = places.flatten()[None], -places.flatten()[None]  # (1, N)
    if rows is not None:
        firsts = places[: h // 2 * 2 : 2, : w // 2 * 2 : 2].flatten()
        # A superpatch stands in its first patch's place. As the key of a pair, the four reach back
        # from there by a row and a column.
        queries = torch.cat([queries[0], firsts + size])[rows]  # (B, M)
        keys = torch.cat([keys[0], size - stride - 1 - firsts])[rows]
    centre = (h - 1) * stride + w - 1
    index = queries[:, :, None] + keys[:, None] + centre
    last = size * (1 if rows is None else 3)
    index = F.pad(index, (0, 0, 1, 0), value=last)
    index = F.pad(index, (1, 0), value=last + 1)
    index[:, 0, 0] = last + 2
    return index


@lru_cache(maxsize=2)
def stored_index(hw: tuple[int, int]) -> Tensor:
    """BEiT's ``relative_position_index`` of a grid, ``(1 + N, 1 + N)`` on the CPU."""
    return pair_index(hw, None, "cpu")[0]


def pool_twice(maps: Tensor) -> list[Tensor]:
    """A map of biases, and its means over the offsets of a superpatch, and again of a second one.

    Patches of a superpatch and another patch stand to each other in 2x2 neighbouring offsets, those
    of two superpatches in the 3x3 that these make, weighted 1, 2, 1 on each axis.

    Args:
        maps: ``(heads, 2h - 1, 2w - 1)``.

    Returns:
        Three of that shape; the last row and column of the second, and the last two of the third,
        are zeros, which no pair takes.
    """
    levels = [maps]
    for _ in range(2):
        last = levels[-1]
        means = F.avg_pool2d(F.pad(last, (0, 1, 0, 1)), 2, 1)
        levels.append(means)
    return levels


def mean_over_members(bias: Tensor, state: TokenAssignment) -> Tensor:
    """Average the bias over the members of the groups, of queries and of keys.

    Args:
        bias: ``(1, heads, T, T)``.
        state: The assignment of T tokens to M groups.

    Returns:
        ``(B or 1, heads, M, M)``.
    """
    batch, heads = len(state.groups), bias.shape[1]
    by_key = bias[0].permute(2, 0, 1).flatten(1).expand(batch, -1, -1)  # (B, T, heads * T)
    keys = state.merge(by_key).unflatten(2, (heads, -1))  # (B, M, heads, T)
    queries = state.merge(keys.permute(0, 3, 2, 1).flatten(2))  # (B, M, heads * M)
    found: Tensor = queries.unflatten(2, (heads, -1)).transpose(1, 2)
    return found


def _after_class_token(state: TokenAssignment) -> TokenAssignment:
    """The same groups of tokens behind one that stands alone."""
    groups = F.pad(state.groups + 1, (1, 0))
    return TokenAssignment(groups, F.pad(state.sizes, (1, 0), value=1), padded=state.padded)
