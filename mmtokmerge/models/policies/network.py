"""The policy of CTS itself: a trained policy network decides."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from mmtokmerge.errors import InputError
from mmtokmerge.models.policies.base import Policy, PolicyInput
from mmtokmerge.models.policies.frozen import FrozenNetwork, HoldsNetwork
from mmtokmerge.registry import MODELS


@MODELS.register_module()
class NetworkPolicy(HoldsNetwork, Policy):
    """Lets a policy network score superpatches (CTS, section 3.3).

    The network stays frozen and in eval mode while the segmentation network trains, sees images in
    its own normalisation, and is in no checkpoint of the segmentation network.

    Args:
        network: Config of :class:`mmtokmerge.PolicyNetwork`, or of a model that has its method
            ``scores``.
        checkpoint: The weights, as ``tools/train.py configs/cts/policynet_*.py`` wrote them: a file
            or a URL. A config builds without; running needs it.

    Raises:
        TypeError: If ``network`` is no config or ``checkpoint`` no path.
        ValueError: At the first batch, or before where a tool runs it, if the checkpoint is not
            given, missing, damaged or of another network.
    """

    def __init__(self, network: Mapping[str, Any], checkpoint: str | None = None) -> None:
        super().__init__()
        self.network = FrozenNetwork(network, checkpoint, "sharing.policy.checkpoint")

    def check(self) -> None:
        self.network.load()

    def check_cell(self, cell: int) -> None:
        own = getattr(self.network.model, "cell", cell)
        if own != cell:
            raise InputError(
                f"sharing.policy.network.cell={own} does not fit patch_size={cell // 2}: a "
                f"superpatch is 2x2 patches, {cell} pixels"
            )

    def forward(self, inputs: PolicyInput) -> Tensor:
        images = inputs.normalised_as(self.network.normalisation, type(self).__name__)
        return self.network.run("scores", images)
