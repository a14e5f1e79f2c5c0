"""Asks the policies of a model's token sharing whether they can run, before anything does."""

from __future__ import annotations

from torch import nn

from mmtokmerge.models.policies import Policy


def check_policies(model: nn.Module) -> None:
    """Raise InputError where a policy lacks what it needs, such as a network's checkpoint."""
    for module in model.modules():
        if isinstance(module, Policy):
            module.check()
