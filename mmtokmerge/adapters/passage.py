"""How an assignment gets from one layer of a host's ViT to the next: it travels with the tokens.

Between two layers the tokens are always at full length, so that whoever reads them, a hook, a
pyramid of intermediate layers or queries that enter later, finds what the host promises. Tokens of
a group are equal there, so the next layer takes one of each: nothing is computed twice.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

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


class Passage:
    """What the layers of one encoder share.

    What a layer leaves is kept beside its output as long as that lives, so forwards in several
    threads, and layers that activation checkpointing runs again, each find their own.

    Args:
        num_prefix: Tokens ahead of the patches, which never merge.
        proportional: Whether merged tokens weigh by the log of their size in the softmax.
    """

    def __init__(self, num_prefix: int, proportional: bool) -> None:
        self.num_prefix = num_prefix
        self.proportional = proportional
        self.grid: Grid | None = None
        """Of the patches that the encoder's patch embedding made last."""
        self._forget()

    def _forget(self) -> None:
        self._left: Any = WeakTensorKeyDictionary()
        self._last: tuple[int, TokenAssignment] | None = None  # while torch records

    def see_patches(self, module: nn.Module, args: Any, output: Tensor) -> None:
        """A forward hook of the patch embedding's convolution, which makes ``(B, C, h, w)``."""
        self.grid = (output.shape[2], output.shape[3])

    def enter(self, layer: nn.Module, number: int, x: Tensor, reducers: Iterable[Reducer]) -> Any:
        """Begin a layer: its tokens, merged, and the flow that it carries on.

        Args:
            layer: The layer.
            number: Its number, counted from 1.
            x: ``(B, P + N, C)`` at full length.
            reducers: What merges in the layer.

        Returns:
            The tokens ``(B, P + M, C)`` and a :class:`TokenReduction`.
        """
        grid, first = self.grid, self.num_prefix
        if grid is None or grid[0] * grid[1] != x.shape[1] - first:
            made = "no patches" if grid is None else f"{grid[0]}x{grid[1]} patches"
            raise InputError(
                f"layer {number} got {x.shape[1] - first} patch tokens, but the patch embedding "
                f"made {made}: dropped patches (patch_drop_rate, bool_masked_pos) do not go with "
                "merging; mmtokmerge.remove(model) first"
            )
        if is_jit_traced() and number == 1:
            patches, grid = hold_grid(x[:, first:], grid)
            x = torch.cat([x[:, :first], patches], dim=1)
        flow = TokenReduction(layer, grid, reducers, first, proportional=self.proportional)
        flow.assignment = self._find(number, x)
        return flow.take(x), flow

    def leave(self, number: int, tokens: Tensor, flow: TokenReduction) -> Tensor:
        """End a layer: its tokens ``(B, P + M, C)`` at full length, ``(B, P + N, C)``."""
        whole = flow.spread(tokens)
        if flow.assignment is not None:
            if torch.compiler.is_compiling():
                self._last = (number, flow.assignment)
            else:
                self._left[whole] = flow.assignment
        return whole

    def end(self) -> None:
        """After the last layer, let go of what was kept while torch recorded."""
        self._last = None

    def _find(self, number: int, x: Tensor) -> TokenAssignment | None:
        """The assignment of the tokens that the layer before left; None where nothing merged."""
        if torch.compiler.is_compiling():
            if self._last is None or self._last[0] != number - 1:
                return None
            return self._last[1]
        found: TokenAssignment | None = self._left.get(x)
        if found is None and len(self._left) and x.requires_grad and x.is_leaf:
            # Reentrant checkpointing runs a layer again on another tensor over the same memory.
            for other, assignment in self._left.items():
                if other.shape == x.shape and other.data_ptr() == x.data_ptr():
                    return assignment  # type: ignore[no-any-return]
        return found

    def __getstate__(self) -> dict[str, Any]:
        kept = ("_left", "_last")
        return {key: value for key, value in self.__dict__.items() if key not in kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()


def forget_passages(model: nn.Module) -> None:
    """Take the hooks of all passages off a model's patch embeddings."""
    for module in model.modules():
        for key, hook in list(module._forward_hooks.items()):
            if isinstance(getattr(hook, "__self__", None), Passage):
                del module._forward_hooks[key]
