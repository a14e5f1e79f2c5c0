"""How an assignment gets from one layer of a host's ViT to the next: it travels with the tokens.

Between two layers the tokens are always at full length, so that whoever reads them, a hook, a
pyramid of intermediate layers or queries that enter later, finds what the host promises. Tokens of
a group are equal there, so the next layer takes one of each: nothing is computed twice.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from mmtokmerge.errors import InputError
from mmtokmerge.kernels.recording import is_jit_traced
from mmtokmerge.layers.layout import hold_grid
from mmtokmerge.layers.reducers import Reducer
from mmtokmerge.layers.token_reduction import TokenReduction
from mmtokmerge.merging import TokenAssignment

Grid = tuple[int, int]


class Carried(NamedTuple):
    """What goes with the tokens between two layers.

    Args:
        assignment: What stands together; None for nothing yet.
        grid: The grid of the patches.
        version: The version of the tokens' tensor, which changes in place count up.
    """

    assignment: TokenAssignment | None
    grid: Grid
    version: int


class Passage:
    """What the layers of one encoder share.

    What a layer leaves is kept beside its output as long as that lives, so forwards in several
    threads, and layers that activation checkpointing runs again, each find their own. While torch
    compiles, where tensors cannot be asked who they are, the layer before has left it.

    Args:
        num_prefix: Tokens ahead of the patches, which never merge.
        proportional: Whether merged tokens weigh by the log of their size in the softmax.
        first: The first layer that takes part, counted from 1.
        rotary: How merged tokens turn, where positions turn queries and keys: 'first' or 'mean'.
    """

    def __init__(
        self, num_prefix: int, proportional: bool, first: int, rotary: str = "first"
    ) -> None:
        self.num_prefix = num_prefix
        self.proportional = proportional
        self.first = first
        self.rotary = rotary
        self._forget()

    def _forget(self) -> None:
        self._carried: Any = WeakTensorKeyDictionary()
        self._grids: dict[int, Grid] = {}  # of the patches that each thread made last
        self._grid: Grid | None = None  # of those made while torch records
        self._last: tuple[int, Tensor, Carried] | None = None

    def see_patches(self, module: nn.Module, args: Any, output: Tensor) -> None:
        """A forward hook of the patch embedding's convolution, which makes ``(B, C, h, w)``."""
        grid = (output.shape[2], output.shape[3])
        if torch.compiler.is_compiling():
            self._grid = grid
        else:
            self._grids[threading.get_ident()] = grid

    def enter(
        self, layer: nn.Module, number: int, x: Tensor, reducers: Iterable[Reducer]
    ) -> tuple[Tensor, TokenReduction]:
        """Begin a layer: its tokens, merged, and the flow that it carries on.

        Args:
            layer: The layer.
            number: The layer's number, counted from 1.
            x: ``(B, P + N, C)`` at full length.
            reducers: What merges in the layer.

        Returns:
            The tokens ``(B, P + M, C)``, and the flow.
        """
        first = self.num_prefix
        assignment, grid, _ = self._find(number, x)
        if is_jit_traced() and number == self.first:
            patches, grid = hold_grid(x[:, first:], grid)
            x = torch.cat([x[:, :first], patches], dim=1)
        flow = TokenReduction(layer, grid, reducers, first, proportional=self.proportional)
        flow.assignment = assignment
        return flow.take(x), flow

    def leave(self, number: int, tokens: Tensor, flow: TokenReduction) -> Tensor:
        """End a layer: its tokens ``(B, P + M, C)`` at full length, ``(B, P + N, C)``."""
        whole = flow.spread(tokens)
        recorded = torch.compiler.is_compiling()
        carried = Carried(flow.assignment, flow.grid, 0 if recorded else version_of(whole))
        self._last = (number, whole, carried)
        if not recorded:
            self._carried[whole] = carried
        return whole

    def end(self) -> None:
        """After the last layer, let go of what only the next would have asked for."""
        self._last = None

    def _find(self, number: int, x: Tensor) -> Carried:
        """What goes with the tokens that a layer got."""
        if torch.compiler.is_compiling():
            if number == self.first:
                return Carried(None, self._check(number, x, self._grid), 0)
            if self._last is None or self._last[0] != number - 1:
                raise InputError(_lost(number))
            return self._last[2]
        found: Carried | None = self._carried.get(x)
        if found is None and self._last is not None and self._last[1] is x:
            found = self._last[2]._replace(version=version_of(x))  # the layer before is compiled
        if found is None and x.requires_grad and x.is_leaf:
            # Reentrant checkpointing runs a layer again on another tensor over the same memory.
            for other, carried in self._carried.items():
                if other.shape == x.shape and other.data_ptr() == x.data_ptr():
                    same: Carried = carried
                    return same
        if found is None:
            if number != self.first:
                raise InputError(_lost(number))
            grid = self._check(number, x, self._grids.get(threading.get_ident()))
            found = self._carried[x] = Carried(None, grid, version_of(x))
        if found.version != version_of(x):
            raise InputError(_lost(number))
        return found

    def _check(self, number: int, x: Tensor, grid: Grid | None) -> Grid:
        tokens = x.shape[1] - self.num_prefix
        if grid is not None and grid[0] * grid[1] == tokens:
            return grid
        made = "no patches" if grid is None else f"{grid[0]}x{grid[1]} patches"
        raise InputError(
            f"layer {number} got {tokens} patch tokens, but the patch embedding made {made}: "
            "dropped patches (patch_drop_rate, bool_masked_pos) do not go with merging; "
            "mmtokmerge.remove(model) first"
        )

    def __getstate__(self) -> dict[str, Any]:
        names = ("num_prefix", "proportional", "first", "rotary")
        return {name: getattr(self, name) for name in names}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()


def version_of(x: Tensor) -> int:
    """How often a tensor was changed in place; 0 where torch does not count, in inference mode."""
    return 0 if x.is_inference() else int(x._version)


def forget_passages(model: nn.Module) -> None:
    """Take the hooks of all passages off a model's patch embeddings."""
    for module in model.modules():
        for key, hook in list(module._forward_hooks.items()):
            if isinstance(getattr(hook, "__self__", None), Passage):
                del module._forward_hooks[key]


def _lost(number: int) -> str:
    return (
        f"layer {number} got other tokens than layer {number - 1} returned, so which of them "
        "stand together is not known: a hook or wrapper changed or copied them, or the layer was "
        "called by itself; mmtokmerge.remove(model) first"
    )
