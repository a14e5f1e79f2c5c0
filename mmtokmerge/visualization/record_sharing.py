"""What token sharing puts together before a plain ViT's first layer, by a hook on it (CTS)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn

from mmtokmerge.merging import TokenAssignment
from mmtokmerge.models.policies import TokenSharing
from mmtokmerge.visualization.merged import MergedTokens


def sharings_of(model: nn.Module) -> Iterator[TokenSharing]:
    """All that lets tokens share in a model."""
    return (module for module in model.modules() if isinstance(module, TokenSharing))


@contextmanager
def record_sharing(model: nn.Module, records: list[MergedTokens]) -> Iterator[None]:
    """Append to ``records`` which patches share a token while the context is open.

    Args:
        model: A model that holds token sharing.
        records: Grows by one entry for each forward pass of a backbone with sharing.
    """

    def record(
        sharing: TokenSharing, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        hw = {**dict(zip(("images", "hw"), args)), **kwargs}["hw"]
        if output is None:  # no superpatch of so small a grid shares
            output = TokenAssignment.identity(hw[0] * hw[1])
        records.append(MergedTokens("Shared before layer 1", describe_sharing(sharing), output, hw))

    with ExitStack() as stack:
        for sharing in sharings_of(model):
            handle = sharing.register_forward_hook(record, with_kwargs=True)
            stack.callback(handle.remove)
        yield


def describe_sharing(sharing: TokenSharing) -> str:
    """What decides and how much, such as 'NetworkPolicy, S = 103'."""
    policy = type(sharing.policy).__name__
    if sharing.threshold is not None:
        return f"{policy}, scores over {sharing.threshold:g}"
    number = sharing.num_shared
    if isinstance(number, float):
        return f"{policy}, S = {number:.0%} of the superpatches"
    return f"{policy}, S = {number}"
