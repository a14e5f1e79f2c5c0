"""What adapters share: a module in a host's place, and the report of what was changed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import nn

from mmtokmerge.errors import InputError
from mmtokmerge.merging import StageMerging


class HostModule(nn.Module):
    """Stands in the place of a host's module, with that module's parameters and submodules.

    Args:
        host: The module whose place it takes; it is kept to be given back.
    """

    def __init__(self, host: nn.Module) -> None:
        super().__init__()
        self._take(host)

    def _take(self, host: nn.Module) -> None:
        self._parameters.update(host._parameters)
        self._buffers.update(host._buffers)
        self._modules.update(host._modules)
        self.training = host.training
        self._host = (host,)  # in a tuple, so that it is no submodule and in no state dict

    if TYPE_CHECKING:  # the host's parameters and submodules, whatever they are

        def __getattr__(self, name: str) -> Any: ...

    def give_back(self) -> nn.Module:
        """The host's module, with what was put into this one's submodules since."""
        (host,) = self._host
        host._parameters.update(self._parameters)
        host._buffers.update(self._buffers)
        host._modules.update(self._modules)
        host.training = self.training
        return host


@dataclass(frozen=True)
class LayerChange:
    """One layer that was changed.

    Args:
        path: The layer's dotted name in the model.
        stage: Its stage, counted from 1.
        stride: Pixels on a side of one of its tokens.
        sr_ratio: Spatial reduction of its keys and values.
        merging: What merges around its attention.
    """

    path: str
    stage: int
    stride: int
    sr_ratio: int
    merging: StageMerging

    def tokens(self, height: int, width: int) -> dict[str, tuple[int, int]]:
        """Queries and keys of an image of this size, before merging and after."""
        hw = (-(-height // self.stride), -(-width // self.stride))
        kv_hw = (max(1, hw[0] // self.sr_ratio), max(1, hw[1] // self.sr_ratio))
        counts = {}
        for name, grid, matcher in (
            ("queries", hw, self.merging.q),
            ("keys", kv_hw, self.merging.kv),
        ):
            whole = grid[0] * grid[1]
            counts[name] = (whole, whole if matcher is None else matcher.num_groups(grid))
        return counts


@dataclass
class Report:
    """What :func:`mmtokmerge.apply` changed; it prints as a table.

    Args:
        host: The family of models, such as 'SegFormer of transformers 4'.
        merging: As it was asked for.
        layers: The layers that were changed.
        left_alone: Path and reason of what was not.
        image_size: Height and width that the printed table is for.
    """

    host: str
    merging: Any
    layers: list[LayerChange] = field(default_factory=list)
    left_alone: list[tuple[str, str]] = field(default_factory=list)
    image_size: tuple[int, int] = (512, 512)

    def at(self, height: int, width: int) -> Report:
        """The same report for images of another size."""
        return Report(self.host, self.merging, self.layers, self.left_alone, (height, width))

    def rows(self) -> Iterator[Sequence[str]]:
        """Stage, layers, queries and keys before and after, for a table."""
        for stage in sorted({change.stage for change in self.layers}):
            own = [change for change in self.layers if change.stage == stage]
            counts = own[0].tokens(*self.image_size)
            yield (
                f"stage {stage}",
                str(len(own)),
                *(f"{before:,} -> {after:,}" for before, after in counts.values()),
            )

    def __str__(self) -> str:
        height, width = self.image_size
        heads = ("", "layers", "queries", "keys and values")
        table = [heads, *self.rows()]
        widths = [max(len(row[i]) for row in table) for i in range(len(heads))]
        lines = [
            "  ".join(
                cell.rjust(w) if i else cell.ljust(w)
                for i, (cell, w) in enumerate(zip(row, widths))
            )
            for row in table
        ]
        title = f"{self.host}, merging={self.merging!r}, images of {height}x{width}"
        notes = [f"left alone: {path} ({why})" for path, why in self.left_alone]
        return "\n".join([title, *lines, *notes])


def refuse_attentions(wanted: bool) -> None:
    """Raise InputError where a caller asks for attention weights, which merging cannot give."""
    if wanted:
        raise InputError(
            "output_attentions=True cannot be given while merging is applied: weights of merged "
            "tokens are none of the host's; mmtokmerge.remove(model) first"
        )
