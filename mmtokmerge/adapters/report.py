"""What was changed, how many tokens are left at an image size, and whether that pays."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

Size = tuple[int, int]

WORTH = 0.05
"""Share of the encoder's operations that must go for merging to pay for its own work."""


@dataclass(frozen=True)
class TokenCount:
    """Tokens before and after merging in one place.

    Args:
        before: Tokens, or keys, of one image.
        after: What is left; None where each image keeps its own number.
    """

    before: int
    after: int | None

    def __str__(self) -> str:
        if self.after is None:
            return f"{self.before:,} -> by threshold"
        if self.after == self.before:
            return f"{self.before:,}"
        return f"{self.before:,} -> {self.after:,} (-{1 - self.after / self.before:.0%})"


class EncoderPlan:
    """What merging does to one encoder at an image size."""

    @abstractmethod
    def rows(self, size: Size) -> list[tuple[Any, ...]]:
        """For a table: a place, its layers, and tokens by :meth:`heads`."""

    @abstractmethod
    def heads(self) -> Sequence[str]:
        """The table's heads of the token counts."""

    @abstractmethod
    def macs(self, size: Size) -> tuple[int, int] | None:
        """Operations of the encoder before and after; None where the image decides."""


@dataclass(frozen=True)
class LayerChange:
    """One layer that was changed.

    Args:
        path: The layer's dotted name in the model.
        parts: What of it was changed.
    """

    path: str
    parts: str


@dataclass
class Report:
    """What :func:`mmtokmerge.apply` changed; it prints as a table.

    Args:
        host: The family of models, such as 'SegFormer of transformers'.
        merging: The setting that was asked for.
        plan: What merging does to the encoder.
        layers: The layers that were changed.
        left_alone: Path and reason of what was not.
        notes: What else there is to know.
        image_size: Height and width that the printed table is for.
    """

    host: str
    merging: Any
    plan: EncoderPlan
    layers: list[LayerChange] = field(default_factory=list)
    left_alone: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    image_size: Size = (512, 512)

    def at(self, height: int, width: int) -> Report:
        """The same report for images of another size."""
        return replace(self, image_size=(height, width))

    def tokens(self, height: int, width: int) -> dict[str, dict[str, TokenCount]]:
        """Tokens before and after of each place, such as 'stage 1', at an image size."""
        heads = self.plan.heads()
        return {
            place: dict(zip(heads, counts)) for place, _, *counts in self.plan.rows((height, width))
        }

    def saving(self, height: int, width: int) -> float | None:
        """Share of the encoder's operations that merging saves; None where the image decides."""
        macs = self.plan.macs((height, width))
        return None if macs is None else 1 - macs[1] / macs[0]

    def pays(self, height: int, width: int) -> bool | None:
        """Whether merging saves enough to pay for its own work; None where the image decides."""
        saved = self.saving(height, width)
        return None if saved is None else saved >= WORTH

    def __str__(self) -> str:
        height, width = self.image_size
        table = [("", "layers", *self.plan.heads())]
        table += [tuple(map(str, row)) for row in self.plan.rows(self.image_size)]
        widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
        lines = [f"{self.host}, merging={self.merging!r}, images of {height}x{width}"]
        for row in table:
            cells = [_pad(i, cell, w) for i, (cell, w) in enumerate(zip(row, widths))]
            lines.append("  ".join(cells).rstrip())
        lines += self._verdict()
        lines += self.notes
        lines += [f"left alone: {path} ({why})" for path, why in self.left_alone]
        return "\n".join(lines)

    def _verdict(self) -> list[str]:
        height, width = self.image_size
        saved = self.saving(height, width)
        if saved is None or self.merging == "none":
            return []
        line = f"saves {saved:.0%} of the encoder's operations"
        if saved < WORTH:
            line += ": images of this size are too small for merging to pay, take merging='none'"
        return [line]


def _pad(column: int, cell: str, width: int) -> str:
    pad: Callable[[int], str] = cell.rjust if column else cell.ljust
    return pad(width)
