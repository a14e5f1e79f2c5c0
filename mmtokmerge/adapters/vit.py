"""What plain ViTs of all hosts share: attention by our kernels, and layers that reduce tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mmtokmerge.adapters.base import Replacement
from mmtokmerge.adapters.passage import Passage
from mmtokmerge.errors import InputError
from mmtokmerge.kernels.attention import attend, for_changing_lengths
from mmtokmerge.layers.token_reduction import TokenReduction
from mmtokmerge.merging import TokenAssignment

Rotation = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(eq=False)
class AttentionInputs:
    """What a reducing layer tells its attention, and is told by it.

    Args:
        bias: Added to the logits, broadcast to ``(B, heads, M, M)``.
        qkv: Queries, keys and values ``(B, heads, M, d)``, before rotation, once they are known.
    """

    bias: Tensor | None = None
    qkv: tuple[Tensor, ...] = ()


class ReducingAttention(Replacement):
    """In the place of a ViT's self-attention; a subclass says where its parameters are.

    :class:`ReducingLayer` hands it the keyword argument ``inputs``, an :class:`AttentionInputs`.
    """

    def attend_heads(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        inputs: AttentionInputs,
        dropout: float,
        rotate: Rotation | None = None,
    ) -> Tensor:
        """Attend: heads ``(B, heads, M, d)`` to ``(B, M, heads * d)``."""
        inputs.qkv = (q, k, v)
        if rotate is not None:
            q, k = rotate(q, k)
        y = attend(q, k, v, inputs.bias, dropout=dropout if self.training else 0.0)
        return y.transpose(1, 2).flatten(2)


class ReducingLayer(Replacement):
    """In the place of a ViT's layer: tokens are reduced between its halves and after them.

    A subclass has the host's ``forward``, which calls :meth:`reduce` with the two halves.
    """

    own: ClassVar[tuple[str, ...]] = ("passage", "number", "last")

    passage: Passage
    number: int
    last: bool

    def reduce(
        self,
        x: Tensor,
        attend_half: Callable[[Tensor, TokenReduction, AttentionInputs], Tensor],
        feed_half: Callable[[Tensor], Tensor],
    ) -> Tensor:
        """``T' = MHSA(T) + T``, reduce, ``T = MLP(T') + T'`` (ALGM, section 3.1).

        Args:
            x: Tokens ``(B, P + N, C)`` at full length.
            attend_half: Tokens, the flow and the attention's inputs to ``T'``.
            feed_half: ``T'`` to the layer's result.

        Returns:
            ``(B, P + N, C)``, equal within each group.
        """
        reducers: Any = self._modules.get(REDUCERS) or ()
        tokens, flow = self.passage.enter(self, self.number, x, reducers)
        step = flow.at(self.number)
        inputs = AttentionInputs(flow.key_bias(tokens))
        with for_changing_lengths(tokens, flow.changes_lengths):
            tokens = attend_half(tokens, flow, inputs)
        if not inputs.qkv:
            raise InputError(
                f"the attention of layer {self.number} was replaced or wrapped since merging was "
                "applied: mmtokmerge.apply again"
            )
        if step is not None:
            tokens = step.between(tokens, inputs.qkv)
        tokens = feed_half(tokens)
        if step is not None:
            tokens = step.after(tokens, inputs.qkv)
            flow.advance(step)
        whole = self.passage.leave(self.number, tokens, flow)
        if self.last:
            flow.finish(tokens)
            self.passage.end()
        return whole

    def give_back(self) -> nn.Module:
        """See :class:`Replacement`; the reducers go."""
        self._modules.pop(REDUCERS, None)
        return super().give_back()


REDUCERS = "mmtokmerge_reducers"
ROTARY = ("first", "mean")
"""How a merged token turns: as its group's first patch, or by its patches' mean position."""


def merged_rotation(
    one: Tensor, other: Tensor, flow: TokenReduction, how: str
) -> tuple[Tensor, Tensor]:
    """Sines and cosines, in either order, by which merged tokens turn.

    Args:
        one: ``(N, D)``, ``(heads, N, D)`` or ``(1, 1 or heads, N, D)`` of the patches.
        other: Likewise.
        flow: What merged them.
        how: One of :data:`ROTARY`. The mean of angles is that of their unit vectors, which is the
            angle of the mean position where a group spans less than half a turn.

    Returns:
        Two of ``(B or 1, 1 or heads, M, D)``; as they came where nothing merged.
    """
    assignment = flow.assignment
    if assignment is None:
        return one, other
    while one.dim() < 4:
        one, other = one[None], other[None]
    if how == "mean":
        batch, heads = len(assignment.groups), one.shape[1]

        def mean(values: Tensor) -> Tensor:
            rows = values.transpose(1, 2).flatten(2).float().expand(batch, -1, -1)
            merged: Tensor = assignment.merge(rows)
            heads_first: Tensor = merged.unflatten(2, (heads, -1)).transpose(1, 2)
            return heads_first

        first, second = mean(one), mean(other)
        length = torch.hypot(first, second)
        unit = length > 1e-3
        length = length.clamp(min=1e-3)
        ones, others = (first_of_groups(each, assignment) for each in (one, other))
        return (
            torch.where(unit, first / length, ones).to(one.dtype),
            torch.where(unit, second / length, others).to(other.dtype),
        )
    return first_of_groups(one, assignment), first_of_groups(other, assignment)


def first_of_groups(values: Tensor, assignment: TokenAssignment) -> Tensor:
    """``(1, 1 or heads, N, D)`` to ``(B or 1, 1 or heads, M, D)``: each group's first patch."""
    index = assignment.representatives()  # (B, M)
    size = (len(index), values.shape[1], -1, values.shape[3])
    picked = index[:, None, :, None].expand(-1, values.shape[1], -1, values.shape[3])
    return values.expand(size).gather(2, picked)


@dataclass(frozen=True)
class Encoder:
    """One host's encoder, as an adapter found it.

    Args:
        name: The family, for the report.
        path: The dotted name of the list of layers.
        layers: The layers.
        patches: The convolution that makes the patches.
        num_prefix: Tokens ahead of the patches.
        attention_of: From a layer to the module that holds its self-attention, and that one's name.
        attentions: The host's classes of self-attention, and what stands for each.
        kinds: The host's classes of layers, and what stands for each.
        grid_of: The grid of patches of an image ``(H, W)``.
        attributes: What a layer's replacement is told, which its ``own`` names.
        num_reducible: Layers, from the first, that may reduce; all where None.
        why_not: Why the others may not.
        fast_alone: Whether the attention has a faster kernel where nothing merges.
        turns: Whether queries and keys turn by their positions.
    """

    name: str
    path: str
    layers: Any
    patches: Any
    num_prefix: int
    attention_of: Callable[[Any], tuple[Any, str]]
    attentions: Mapping[str, type[ReducingAttention]]
    kinds: Mapping[str, type[ReducingLayer]]
    grid_of: Callable[[int, int], tuple[int, int]]
    attributes: Callable[[Any], dict[str, Any]] = lambda layer: {}
    num_reducible: int | None = None
    why_not: str = ""
    fast_alone: bool = True
    turns: bool = False
