"""The flow of a plain ViT's tokens through sharing, reducers and unmerging, in one forward pass."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmtokmerge.errors import InputError
from mmtokmerge.kernels.unpadded import remember
from mmtokmerge.layers.layout import to_map
from mmtokmerge.layers.reducers.base import AFTER, BETWEEN, CLASS_ATTENTION, Reducer
from mmtokmerge.layers.tokens import TokenFeatures
from mmtokmerge.merging import TokenAssignment
from mmtokmerge.merging.trace import TOKENS, is_traced, report, report_end, report_layer


class TokenReduction:
    """What a forward creates, carries from layer to layer, and drops.

    Args:
        owner: The backbone, which traces find it by.
        grid: The grid ``(h, w)`` of the patches.
        reducers: What merges tokens, in the order in which they act.
        num_prefix: Tokens ahead of the patches, class and distillation token, which never merge.
        shared: Which patches share a token before the first layer (CTS); None where none do.
        proportional: Whether merged tokens weigh by the log of their size in the softmax.
    """

    def __init__(
        self,
        owner: nn.Module,
        grid: tuple[int, int],
        reducers: Iterable[Reducer] = (),
        num_prefix: int = 0,
        shared: TokenAssignment | None = None,
        proportional: bool = False,
    ) -> None:
        self.owner = owner
        self.grid = grid
        self.reducers = list(reducers)
        self.num_prefix = num_prefix
        self.shared = shared
        self.proportional = proportional
        self.assignment = shared
        """From the patches to the tokens as they are now; None while every patch is a token."""

    @property
    def only_shared(self) -> bool:
        """Whether the groups are nothing but whole superpatches."""
        return self.assignment is not None and self.assignment is self.shared

    def at(self, layer: int) -> LayerReduction | None:
        """What a layer, counted from 1, takes to reduce its tokens; None where nothing acts."""
        acting = [reducer for reducer in self.reducers if layer in reducer.layers]
        if not acting and not is_traced():
            return None
        return LayerReduction(self, layer, acting)

    def advance(self, step: LayerReduction | None) -> bool:
        """Take over what a layer left; whether it merged anything."""
        if step is None or step.assignment is self.assignment:
            return False
        self.assignment = step.assignment
        return True

    def key_bias(self, tokens: Tensor) -> Tensor | None:
        """What padded or, if proportional, merged tokens add to logits: fp32 ``(B, 1, 1, M)``."""
        current = self.assignment
        if current is None or not (self.proportional or current.padded):
            return None
        sizes = current.sizes.expand(tokens.shape[0], -1)
        sizes = F.pad(sizes, (self.num_prefix, 0), value=1)
        weights = sizes if self.proportional else (sizes > 0)
        return weights.float().log()[:, None, None]

    def lengths(self, tokens: Tensor) -> Tensor | None:
        """``(B,)`` int32, tokens of each image that are not padding; None where none are."""
        if self.assignment is None or not self.assignment.padded:
            return None
        sizes = self.assignment.sizes.expand(tokens.shape[0], -1)
        lengths = (sizes > 0).sum(1, dtype=torch.int32) + self.num_prefix
        counts = self.assignment.counts
        if counts is None or len(counts) != len(lengths):
            return lengths
        return remember(lengths, [count + self.num_prefix for count in counts])

    @property
    def changes_lengths(self) -> bool:
        """Whether the images decide how many tokens there are now, so that each brings another."""
        return self.assignment is not None and self.assignment.counts is not None

    def take(self, whole: Tensor) -> Tensor:
        """Tokens ``(B, P + M, C)`` of what :meth:`spread` made, one row of each group."""
        if self.assignment is None:
            return whole
        index = self.assignment.representatives().expand(len(whole), -1) + self.num_prefix
        prefix = torch.arange(self.num_prefix, device=whole.device).expand(len(whole), -1)
        index = torch.cat([prefix, index], dim=1)
        return whole.gather(1, index[..., None].expand(-1, -1, whole.shape[2]))

    def spread(self, tokens: Tensor) -> Tensor:
        """Tokens ``(B, P + M, C)`` at full length ``(B, P + N, C)``: patches take their group's."""
        if self.assignment is None:
            return tokens
        first = self.num_prefix
        whole = self.assignment.unmerge(tokens[:, first:])
        return torch.cat([tokens[:, :first], whole], dim=1) if first else whole

    def to_map(self, tokens: Tensor) -> Tensor:
        """Tokens ``(B, P + M, C)`` as a map ``(B, C, h, w)``: every patch takes its group's."""
        patches = tokens[:, self.num_prefix :]
        current = self.assignment
        return to_map(patches if current is None else current.unmerge(patches), self.grid)

    def to_features(self, tokens: Tensor, with_cls_token: bool) -> TokenFeatures:
        """Tokens ``(B, P + M, C)`` for a head that takes them merged."""
        cls_token = tokens[:, :1] if with_cls_token else None
        patches = tokens[:, self.num_prefix :]
        return TokenFeatures(patches, self.current(tokens), self.grid, cls_token)

    def finish(self, tokens: Tensor) -> None:
        """Report what the forward ended with."""
        if is_traced():
            report_end(self.owner, self.current(tokens))

    def current(self, tokens: Tensor) -> TokenAssignment:
        """The assignment, the identity where nothing merged."""
        return or_identity(self.assignment, self.grid, tokens)


class LayerReduction:
    """The reducers of one layer, which calls :meth:`between` and :meth:`after` its halves.

    A layer that is run again in the backward pass, by activation checkpointing, reduces again from
    the same assignment to the same one.
    """

    def __init__(self, flow: TokenReduction, layer: int, acting: Sequence[Reducer]) -> None:
        self.flow = flow
        self.layer = layer
        self.acting = acting
        self.before = self.assignment = flow.assignment

    def between(self, x: Tensor, qkv: Tensor | Sequence[Tensor]) -> Tensor:
        """Reduce tokens ``(B, P + M, C)`` between attention and MLP.

        Args:
            x: The tokens.
            qkv: Queries, keys and values ``(B, heads, P + M, d)`` of the layer's attention.
        """
        self.assignment = self.before
        flow = self.flow
        if is_traced():
            stood = or_identity(self.before, flow.grid, x)
            report_layer(flow.owner, self.layer, x[:, flow.num_prefix :], stood, flow.grid)
        return self._reduce(BETWEEN, x, qkv)

    def after(self, x: Tensor, qkv: Tensor | Sequence[Tensor]) -> Tensor:
        """The same after the MLP."""
        return self._reduce(AFTER, x, qkv)

    def _reduce(self, position: str, x: Tensor, qkv: Tensor | Sequence[Tensor]) -> Tensor:
        acting = [reducer for reducer in self.acting if reducer.position == position]
        if not acting:
            return x
        first, grid = self.flow.num_prefix, self.flow.grid
        patches = x[:, first:]
        for reducer in acting:
            feature = patches if reducer.feature == "X" else _of_attention(qkv, reducer, first)
            if feature.shape[1] != patches.shape[1]:
                raise InputError(
                    f"feature={reducer.feature!r} of {type(reducer).__name__} in layer "
                    f"{self.layer} no longer fits: another reducer has merged the tokens in this "
                    "layer"
                )
            before = self.assignment
            patches, self.assignment, step = reducer(patches, feature, before, grid)
            if is_traced():
                groups = step if before is None else before.compose(step)
                report(reducer, TOKENS, groups, grid, self.layer, feature, before)
        return torch.cat([x[:, :first], patches], dim=1) if first else patches


def or_identity(
    assignment: TokenAssignment | None, grid: tuple[int, int], tokens: Tensor
) -> TokenAssignment:
    """The assignment, or that of patches which all stand alone."""
    if assignment is not None:
        return assignment
    return TokenAssignment.identity(grid[0] * grid[1], tokens.device)


def _of_attention(qkv: Tensor | Sequence[Tensor], reducer: Reducer, first: int) -> Tensor:
    """Queries, keys or values ``(B, M, d)``, the mean over the heads, of the patches.

    Or, where a reducer asks for it, how much the class token attends to each, ``(B, M, 1)``.
    """
    if reducer.feature == CLASS_ATTENTION:
        if first == 0:
            raise InputError(
                f"{type(reducer).__name__} asks what the class token attends to, but the network "
                "has none: set with_cls_token=True"
            )
        q, k = qkv[0], qkv[1]
        scores = (q[:, :, :1] * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)  # (B, heads, 1, P + M)
        attention: Tensor = scores.float().softmax(-1).mean(1)[:, 0, first:, None]
        return attention
    return qkv["QKV".index(reducer.feature)].mean(1)[:, first:]
