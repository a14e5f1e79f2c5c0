"""The one value that carries a merge: which tokens stand together."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class TokenAssignment:
    """A map from tokens to groups, immutable.

    A batch of 1 stands for any batch: the groups of a grid do not depend on the image. Images that
    keep fewer groups than others of their batch have groups of size 0 at the end of their row.

    Args:
        groups: ``(B, N)`` int64, the index of each token's group, ``0 <= groups < M``.
        sizes: ``(B, M)`` int64, how many tokens each group holds.
    """

    groups: Tensor
    sizes: Tensor

    @classmethod
    def from_groups(cls, groups: Tensor, num_groups: int) -> TokenAssignment:
        """Count the sizes of ``num_groups`` groups from ``groups (B, N)``."""
        ones = torch.ones_like(groups)
        sizes = groups.new_zeros(groups.shape[0], num_groups).scatter_add_(1, groups, ones)
        return cls(groups, sizes)

    @classmethod
    def identity(cls, num_tokens: int, device: torch.device | str | None = None) -> TokenAssignment:
        """Each of ``num_tokens`` tokens stands alone: merging changes nothing."""
        groups = torch.arange(num_tokens, device=device)[None]  # (1, N)
        return cls(groups, torch.ones_like(groups))

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
        rows = x.reshape(-1, channels).to(precision)  # (B*N, C)
        index = self._rows(batch)  # (B*N,)
        if sizes is None:
            counts = self.sizes.reshape(-1)
            if self.sizes.shape[0] != batch:
                counts = counts.repeat(batch)
        else:
            if sizes.shape != x.shape[:2]:
                raise ValueError(
                    f"merge needs sizes {tuple(x.shape[:2])} beside x {tuple(x.shape)}, "
                    f"got {tuple(sizes.shape)}"
                )
            weights = sizes.reshape(-1).to(precision)  # (B*N,)
            rows = rows * weights[:, None]
            counts = weights.new_zeros(batch * self.num_groups).index_add_(0, index, weights)
        sums = rows.new_zeros(batch * self.num_groups, channels).index_add_(0, index, rows)
        means = sums / counts.masked_fill(counts == 0, 1)[:, None]
        return means.to(x.dtype).view(batch, self.num_groups, channels)

    def unmerge(self, y: Tensor) -> Tensor:
        """Give each token its group's row, ``(B, M, C) -> (B, N, C)``.

        Raises:
            ValueError: If ``y`` does not have M rows or the batch does not fit.
        """
        batch, _, channels = self._check(y, self.num_groups, "unmerge")
        rows = y.reshape(-1, channels).index_select(0, self._rows(batch))  # (B*N, C)
        return rows.view(batch, self.num_tokens, channels)

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
        return TokenAssignment(then.gather(1, first), sizes)

    def _rows(self, batch: int) -> Tensor:
        """``(B*N,)`` the row of each token's group in a flat ``(B*M, C)`` view."""
        if batch == 1:
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
