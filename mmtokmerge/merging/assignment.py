"""The one value that carries a merge: which tokens stand together."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from mmtokmerge.kernels.gpu.operators import mean_of_groups, spread_onto
from mmtokmerge.kernels.gpu.switch import use_kernels
from mmtokmerge.kernels.recording import is_exported, is_recorded, refuse_trace
from mmtokmerge.kernels.residual import residual
from mmtokmerge.kernels.rows import take_rows
from mmtokmerge.merging.group_sums import group_sums


@dataclass(frozen=True, eq=False)
class TokenAssignment:
    """A map from tokens to groups, immutable.

    A batch of 1 stands for any batch: the groups of a grid do not depend on the image. Images that
    keep fewer groups than others of their batch have groups of size 0 at the end of their row.

    Args:
        groups: ``(B, N)`` int64, the index of each token's group, ``0 <= groups < M``.
        sizes: ``(B, M)`` int64, how many tokens each group holds.
        padded: Whether a row may hold groups of size 0, known without asking the device.
        shared: Groups from this number on hold exactly one token, known without asking the device;
            None where any group may hold several.
        counts: Groups of each image of the batch, where the images decide and the device was asked
            for them; None where they are as many in every image.
    """

    groups: Tensor
    sizes: Tensor
    padded: bool = field(default=False, kw_only=True)
    shared: int | None = field(default=None, kw_only=True)
    counts: tuple[int, ...] | None = field(default=None, kw_only=True)

    @classmethod
    def from_groups(
        cls, groups: Tensor, num_groups: int, shared: int | None = None
    ) -> TokenAssignment:
        """Count the sizes of ``num_groups`` groups from ``groups (B, N)``."""
        sizes = group_sums(torch.ones_like(groups), groups, num_groups)
        return cls(groups, sizes, shared=shared)

    @classmethod
    def identity(cls, num_tokens: int, device: torch.device | str | None = None) -> TokenAssignment:
        """Each of ``num_tokens`` tokens stands alone: merging changes nothing."""
        groups = torch.arange(num_tokens, device=device)[None]  # (1, N)
        return cls(groups, torch.ones_like(groups))

    @classmethod
    def from_firsts(
        cls,
        firsts: Tensor,
        present: Tensor | None = None,
        num_groups: int | None = None,
        padded: bool = False,
    ) -> TokenAssignment:
        """Number groups in the order of their first tokens.

        Args:
            firsts: ``(B, N)`` int64, the first token of each token's group; its own place for a
                token that stands first or alone.
            present: ``(B, N)`` bool, False for rows that are padding: they count in no group.
            num_groups: Groups of every image where that is known; else the device is asked once.
            padded: With ``num_groups``: whether an image may have fewer.
        """
        opens = firsts == torch.arange(firsts.shape[1], device=firsts.device)
        if present is not None:
            opens = opens & present
        rank = opens.cumsum(1)  # (B, N), groups opened so far
        groups = (rank - 1).clamp(min=0).gather(1, firsts)
        counts = None
        if num_groups is None and firsts.shape[0] == 0:
            num_groups = firsts.shape[1]  # of no image
        if num_groups is None:
            refuse_trace("merging by a threshold")
            counts = tuple(rank[:, -1].tolist())
            num_groups, padded = max(1, *counts), min(counts) < max(counts)
        ones = torch.ones_like(groups) if present is None else present.long()
        sizes = group_sums(ones, groups, num_groups)
        return cls(groups, sizes, padded=padded, counts=counts)

    @property
    def num_tokens(self) -> int:
        """N, the number of tokens before merging."""
        return self.groups.shape[1]

    @property
    def num_groups(self) -> int:
        """M, the number of groups, padded ones included."""
        return self.sizes.shape[1]

    def merge(self, x: Tensor, sizes: Tensor | None = None) -> Tensor:
        """Average the tokens of each group; sums are taken in fp32 at least.

        Args:
            x: Tokens ``(B, N, C)``, floating point.
            sizes: ``(B, N)`` how many tokens each row of ``x`` already stands for; one where None.

        Returns:
            ``(B, M, C)`` in the dtype of ``x``; zeros where a group is empty.

        Raises:
            ValueError: If ``x`` or ``sizes`` does not have N tokens or the batch does not fit.
        """
        batch, _, channels = self._check(x, self.num_tokens, "merge")
        precision = torch.promote_types(x.dtype, torch.float32)
        if sizes is not None and sizes.shape != x.shape[:2]:
            raise ValueError(
                f"merge needs sizes {tuple(x.shape[:2])} beside x {tuple(x.shape)}, "
                f"got {tuple(sizes.shape)}"
            )
        if is_exported():
            return self._merge_exported(x.to(precision), sizes).to(x.dtype)
        if use_kernels(x):
            return self._merge_by_kernel(x, sizes)
        rows = x.reshape(-1, channels).to(precision)  # (B*N, C)
        index = self._rows(batch)  # (B*N,)
        if sizes is None:
            counts = self.sizes.expand(batch, -1).reshape(-1)
        else:
            weights = sizes.reshape(-1).to(precision)  # (B*N,)
            rows = rows * weights[:, None]
            counts = weights.new_zeros(batch * self.num_groups).index_add_(0, index, weights)
        sums = rows.new_zeros(batch * self.num_groups, channels).index_add_(0, index, rows)
        means = sums / counts.masked_fill(counts == 0, 1)[:, None]
        return means.to(x.dtype).view(batch, self.num_groups, channels)

    def _merge_by_kernel(self, x: Tensor, sizes: Tensor | None) -> Tensor:
        """The same on a GPU: read as it is, summed in fp32, written once."""
        if sizes is None:
            shared = self.num_groups if self.shared is None else self.shared
            return mean_of_groups(x, self.groups, self.sizes, None, shared)
        weights = sizes.to(torch.float32)
        groups = self.groups.expand(len(x), -1)
        counts = weights.new_zeros(len(x), self.num_groups).scatter_add_(1, groups, weights)
        return mean_of_groups(x, self.groups, counts, weights, self.num_groups)

    def _merge_exported(self, x: Tensor, sizes: Tensor | None) -> Tensor:
        """The same for a runtime: sums along the tokens' axis.

        A sum over flat rows becomes ONNX's ScatterND, whose threads in onnxruntime 1.32 lose
        additions to the same row now and then: other numbers at each run.
        """
        groups = self.groups.expand(x.shape[0], x.shape[1])
        counts = self.sizes.expand(x.shape[0], -1).to(x.dtype)
        if sizes is not None:
            weights = sizes.to(x.dtype)
            x = x * weights[..., None]
            counts = group_sums(weights, groups, self.num_groups)
        sums = group_sums(x, groups, self.num_groups)
        return sums / counts.masked_fill(counts == 0, 1)[..., None]

    def pick(self, x: Tensor, sizes: Tensor | None = None) -> Tensor:
        """Keep one random token of each group, ``(B, N, C) -> (B, M, C)``.

        Draws from torch's generator of the device.

        Args:
            x: Tokens ``(B, N, C)``.
            sizes: ``(B, N)`` how many tokens each row of ``x`` already stands for; rows of size 0
                are never picked, but for a group that holds nothing else.
        """
        batch, _, channels = self._check(x, self.num_tokens, "pick")
        groups = self.groups.expand(batch, -1)
        # A random order of the tokens: the last of each group in it is the group's choice.
        order = torch.rand(groups.shape, device=x.device).argsort(dim=1)  # (B, N)
        rank = torch.empty_like(order)
        places = torch.arange(self.num_tokens, device=x.device).expand_as(order)
        rank.scatter_(1, order, places)
        if sizes is not None:
            rank = rank.masked_fill(sizes == 0, 0)
        last = groups.new_zeros(batch, self.num_groups).scatter_reduce_(1, groups, rank, "amax")
        chosen = order.gather(1, last)  # (B, M)
        return x.gather(1, chosen[..., None].expand(-1, -1, channels))

    def strongest(self, x: Tensor, sizes: Tensor | None = None) -> Tensor:
        """In each channel the value of a group's tokens that is farthest from zero (CubistMerge).

        Args:
            x: Tokens ``(B, N, C)``, floating point.
            sizes: ``(B, N)`` what each row stands for; a row of size 0 is padding. One where None.

        Returns:
            ``(B, M, C)`` in the dtype of ``x``; zeros where a group is empty.
        """
        batch, _, channels = self._check(x, self.num_tokens, "strongest")
        if sizes is not None:
            x = x.masked_fill((sizes == 0)[..., None], 0)  # nearer to zero than any other
        index = self.groups.expand(batch, -1)[..., None].expand(-1, -1, channels)
        zeros = x.new_zeros(batch, self.num_groups, channels)
        most = zeros.scatter_reduce(1, index, x, "amax", include_self=False)
        least = zeros.scatter_reduce(1, index, x, "amin", include_self=False)
        return torch.where(most >= -least, most, least)

    def unmerge(self, y: Tensor) -> Tensor:
        """Give each token its group's row, ``(B, M, C) -> (B, N, C)``.

        Raises:
            ValueError: If ``y`` does not have M rows or the batch does not fit.
        """
        batch, _, channels = self._check(y, self.num_groups, "unmerge")
        rows = take_rows(y.reshape(-1, channels), self._rows(batch))  # (B*N, C)
        return rows.view(batch, self.num_tokens, channels)

    def unmerge_onto(self, y: Tensor, onto: Tensor) -> Tensor:
        """``onto + unmerge(y)``, on a GPU without gradients in one pass, else in unmerged memory.

        Args:
            y: ``(B, M, C)``.
            onto: ``(B, N, C)`` what the branch comes back to.
        """
        whole = (y.shape[0], self.num_tokens, y.shape[-1])
        alike = onto.shape == whole and onto.dtype == y.dtype
        if self.copies and alike and not torch.is_grad_enabled() and use_kernels(y):
            self._check(y, self.num_groups, "unmerge")
            return spread_onto(y, self.groups, onto)
        return residual(onto, self.unmerge(y), reuse=not torch.is_grad_enabled())

    @property
    def copies(self) -> bool:
        """Whether :meth:`unmerge` gives each token its group's row and nothing else."""
        return True

    def representatives(self) -> Tensor:
        """``(B, M)`` one token of each group, its first; 0 for groups of size 0.

        Where all tokens of a group have the same row, ``unmerge`` is undone by taking theirs.
        """
        tokens = torch.arange(self.num_tokens, device=self.groups.device).expand_as(self.groups)
        first = torch.full_like(self.sizes, self.num_tokens)
        first = first.scatter_reduce(1, self.groups, tokens, "amin")
        return first.masked_fill(first == self.num_tokens, 0)

    def compose(self, second: TokenAssignment) -> TokenAssignment:
        """This assignment followed by ``second``, which groups this one's groups.

        Args:
            second: An assignment of ``N = self.num_groups`` tokens.

        Returns:
            One assignment from this one's tokens to ``second``'s groups; its sizes count tokens.

        Raises:
            ValueError: If ``second`` does not take as many tokens as this one has groups.
        """
        if second.num_tokens != self.num_groups:
            raise ValueError(
                f"compose needs a second assignment of {self.num_groups} tokens, "
                f"got one of {second.num_tokens}"
            )
        batch = max(self.groups.shape[0], second.groups.shape[0])
        first = self.groups.expand(batch, -1)  # (B, N)
        then = second.groups.expand(batch, -1)  # (B, M)
        sizes = self.sizes.new_zeros(batch, second.num_groups)
        sizes = sizes.scatter_add_(1, then, self.sizes.expand(batch, -1))
        padded = self.padded or second.padded
        counts = second.counts
        if counts is None and self.counts is not None:
            merged = second.num_groups < second.num_tokens  # as many of every image
            counts = (second.num_groups,) * len(self.counts) if merged else self.counts
        return TokenAssignment(then.gather(1, first), sizes, padded=padded, counts=counts)

    def _rows(self, batch: int) -> Tensor:
        """``(B*N,)`` the row of each token's group in a flat ``(B*M, C)`` view."""
        if batch == 1 and not is_recorded():  # what is recorded may run on other batches
            return self.groups.reshape(-1)
        offsets = torch.arange(batch, device=self.groups.device) * self.num_groups
        return (self.groups + offsets[:, None]).reshape(-1)

    def _check(self, x: Tensor, length: int, verb: str) -> torch.Size:
        own = self.groups.shape[0]
        if x.dim() != 3 or x.shape[1] != length or own not in (1, x.shape[0]):
            raise ValueError(
                f"{verb} takes ({'B' if own == 1 else own}, {length}, C), got {tuple(x.shape)}"
            )
        return x.shape
