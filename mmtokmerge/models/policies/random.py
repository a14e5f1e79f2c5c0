"""The policy that does not look: random superpatches share."""

from __future__ import annotations

import torch
from torch import Tensor

from mmtokmerge.checks import is_whole
from mmtokmerge.errors import InputTypeError
from mmtokmerge.models.policies.base import Policy, PolicyInput
from mmtokmerge.registry import MODELS


@MODELS.register_module()
class RandomPolicy(Policy):
    """Scores superpatches at random (CTS, table 1, random sharing).

    Args:
        seed: None draws from torch's generator of the device, anew for each batch. With a number,
            in eval mode, a grid has the same scores each time, whatever the image or the batch.

    Raises:
        TypeError: If the seed is neither None nor an int.
    """

    def __init__(self, seed: int | None = None) -> None:
        super().__init__()
        if seed is not None and (not is_whole(seed)):
            raise InputTypeError(f"sharing.policy.seed must be None or an int, got {seed!r}")
        self.seed = seed

    def forward(self, inputs: PolicyInput) -> Tensor:
        shape = (len(inputs.images), *inputs.cells)
        if self.seed is None or self.training:
            return torch.rand(shape, device=inputs.images.device)
        generator = torch.Generator().manual_seed(self.seed)
        one = torch.rand(shape[1:], generator=generator, device="cpu")
        return one.to(inputs.images.device).expand(shape)
