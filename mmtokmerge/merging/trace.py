"""What merged where in a forward pass: one mechanism for pictures, counts, calibration and reports.

Whatever merges tokens reports each merge to the traces that are open around it; where none is open
nothing is kept, and nothing stays on a module. A model that is being compiled does not report.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from mmtokmerge.merging.assignment import TokenAssignment

QUERIES, KEYS, TOKENS, SHARED = "queries", "keys and values", "tokens", "shared"


@dataclass(frozen=True, eq=False)
class MergeEvent:
    """One merge.

    Args:
        place: The dotted name, in the traced model, of the module that merged.
        part: 'queries' or 'keys and values' of an attention, 'tokens' of a plain ViT's layer, or
            'shared' where patches share a token before the first layer.
        layer: A plain ViT's layer, counted from 1, 0 before the first; None inside an attention.
        assignment: From the tokens of the grid to the groups, all merges before this one included.
        grid: The tokens' grid ``(h, w)``.
        module: What merged.
        compared: ``(B, M, D)`` what a reducer compared, a row for each group of ``before``.
        before: What had merged before, None for nothing.
    """

    place: str
    part: str
    layer: int | None
    assignment: TokenAssignment
    grid: tuple[int, int]
    module: nn.Module
    compared: Tensor | None = None
    before: TokenAssignment | None = None


@dataclass(frozen=True, eq=False)
class LayerTokens:
    """The tokens of one layer of a plain ViT, before anything merges there.

    Args:
        layer: Layer, counted from 1.
        tokens: ``(B, M, C)`` after the attention's residual; class and distillation token are left
            out.
        assignment: From the patches to the M rows.
        grid: The grid of the patches.
    """

    layer: int
    tokens: Tensor
    assignment: TokenAssignment
    grid: tuple[int, int]


@dataclass
class Trace:
    """What the forward passes inside :func:`trace` reported.

    Args:
        events: In the order of running.
        assignment: What a plain ViT's last forward ended with, the identity where nothing merged;
            None for other networks.
    """

    events: list[MergeEvent] = field(default_factory=list)
    assignment: TokenAssignment | None = None
    _places: dict[int, str] = field(default_factory=dict, repr=False)
    _on_layer: Callable[[LayerTokens], None] | None = field(default=None, repr=False)

    @property
    def sharing(self) -> TokenAssignment | None:
        """Which patches shared a token before the first layer last; None where none did."""
        found = [event.assignment for event in self.events if event.part == SHARED]
        return found[-1] if found and found[-1].num_groups < found[-1].num_tokens else None


_BEYOND: ContextVar[list[Tensor] | None] = ContextVar("tokens beyond", default=None)
_OPEN: ContextVar[tuple[Trace, ...]] = ContextVar("open traces", default=())


@contextmanager
def trace(
    model: nn.Module, on_layer: Callable[[LayerTokens], None] | None = None
) -> Iterator[Trace]:
    """Record what ``model`` merges while the context is open.

    Args:
        model: A model that holds what merges, or that itself.
        on_layer: Called with the tokens of each layer of a plain ViT.

    Yields:
        The trace, which grows with each forward pass.
    """
    places = {id(module): name for name, module in model.named_modules()}
    opened = Trace(_places=places, _on_layer=on_layer)
    token = _OPEN.set((*_OPEN.get(), opened))
    try:
        yield opened
    finally:
        _OPEN.reset(token)


@contextmanager
def counting_beyond() -> Iterator[list[Tensor]]:
    """Collect how many tokens merge beyond their threshold while the context is open.

    Unlike a trace it is filled in a graph that is exported too.

    Yields:
        ``(B,)`` int64 of each merge that leaves at most so many tokens, as they come.
    """
    found: list[Tensor] = []
    token = _BEYOND.set(found)
    try:
        yield found
    finally:
        _BEYOND.reset(token)


def note_beyond(tokens: Tensor) -> None:
    """Tell who counts that ``tokens (B,)`` of each image merged beyond a threshold."""
    if torch.compiler.is_dynamo_compiling():  # which knows no such variable; an export does
        return
    found = _BEYOND.get()
    if found is not None:
        found.append(tokens)


def is_traced() -> bool:
    """Whether a trace is open; always False while torch compiles."""
    return not torch.compiler.is_compiling() and bool(_OPEN.get())


def report(
    module: nn.Module,
    part: str,
    assignment: TokenAssignment,
    grid: tuple[int, int],
    layer: int | None = None,
    compared: Tensor | None = None,
    before: TokenAssignment | None = None,
) -> None:
    """Tell the open traces of a model that holds ``module`` what it merged; see MergeEvent."""
    for opened in _OPEN.get():
        if id(module) in opened._places:
            place = opened._places[id(module)]
            opened.events.append(
                MergeEvent(place, part, layer, assignment, grid, module, compared, before)
            )


def report_layer(
    module: nn.Module,
    layer: int,
    tokens: Tensor,
    assignment: TokenAssignment,
    grid: tuple[int, int],
) -> None:
    """Hand the tokens of a layer of the backbone ``module`` to who asked for them."""
    for opened in _OPEN.get():
        if opened._on_layer is not None and id(module) in opened._places:
            opened._on_layer(LayerTokens(layer, tokens, assignment, grid))


def report_end(module: nn.Module, assignment: TokenAssignment) -> None:
    """Tell the open traces what the backbone ``module`` ended with."""
    for opened in _OPEN.get():
        if id(module) in opened._places:
            opened.assignment = assignment
