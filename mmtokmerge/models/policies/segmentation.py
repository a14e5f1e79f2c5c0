"""The policy that segments first: superpatches of a single predicted class share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from mmengine.config import ConfigDict
from torch import Tensor

from mmtokmerge.errors import InputTypeError
from mmtokmerge.models.policies.base import Policy, PolicyInput
from mmtokmerge.models.policies.frozen import FrozenNetwork, HoldsNetwork
from mmtokmerge.models.policies.oracle import uniformity
from mmtokmerge.registry import MODELS

TRAINING_ONLY = "auxiliary_head"


@MODELS.register_module()
class SegmentationPolicy(HoldsNetwork, Policy):
    """Scores superpatches by the labels that a segmentor predicts (CTS, table 2, "Seg. pred.").

    As :class:`mmtokmerge.OraclePolicy`, with a prediction for the ground truth. The segmentor is
    any of mmseg's, such as FCN on MobileNetV2 or DeepLabv3+. It stays frozen and in eval mode while
    the segmentation network trains, sees images in its own normalisation, infers by its own
    ``test_cfg``, and is in no checkpoint of the segmentation network. Its ``auxiliary_head`` serves
    its training alone: it is not built, and its weights are not read.

    Args:
        network: Config of the segmentor.
        checkpoint: The network's weights, as mmseg wrote them: a file or a URL. A config builds
            without; running needs it.

    Raises:
        TypeError: If ``network`` is no config of a segmentor or ``checkpoint`` no path.
        ValueError: At the first batch, or before where a tool runs it, if the checkpoint is not
            given, missing, damaged or of another network.
    """

    def __init__(self, network: Mapping[str, Any], checkpoint: str | None = None) -> None:
        super().__init__()
        self.network = _FrozenSegmentor(network, checkpoint, "sharing.policy.checkpoint")

    def check(self) -> None:
        self.network.load()

    def forward(self, inputs: PolicyInput) -> Tensor:
        images = inputs.normalised_as(self.network.normalisation, type(self).__name__)
        # Without samples mmseg predicts at the size of the images.
        samples: Any = self.network.run("predict", images)
        labels = torch.stack([sample.pred_sem_seg.data[0] for sample in samples]).long()
        return uniformity(labels, 2 * inputs.patch_size, inputs.cells)


class _FrozenSegmentor(FrozenNetwork):
    """A segmentor without the heads that only its training needs."""

    def __init__(self, config: Mapping[str, Any], checkpoint: str | None, key: str) -> None:
        if isinstance(config, Mapping):
            kept = {name: value for name, value in config.items() if name != TRAINING_ONLY}
            config = ConfigDict(kept)  # mmseg reads test_cfg.mode
        super().__init__(config, checkpoint, key)
        if not getattr(self.model, "with_decode_head", False):
            raise InputTypeError(
                "the network of SegmentationPolicy must be a segmentor with a decode_head, got "
                f"type={config['type']!r}"
            )

    def _read(self, path: str) -> dict[str, Tensor]:
        weights = super()._read(path)
        return {k: v for k, v in weights.items() if not k.startswith(f"{TRAINING_ONLY}.")}
