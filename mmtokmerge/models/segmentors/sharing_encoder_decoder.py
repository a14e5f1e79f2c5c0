"""mmseg's encoder-decoder around a backbone whose tokens a policy shares (CTS)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from mmseg.models.segmentors import EncoderDecoder
from torch import Tensor

from ...registry import MODELS
from ..policies import Normalisation, TokenSharing
from .label_maps import label_maps

IGNORED = 255


@MODELS.register_module()
class SharingEncoderDecoder(EncoderDecoder):
    """mmseg's ``EncoderDecoder`` that serves the policy of ``backbone.sharing``.

    It tells the policy how images are normalised, so that a policy network gets them in its own
    way, and hands it label maps if it asks for them: ground truth in training and in tests. They
    ride along as a fourth channel of the images, so that sliding windows cut both alike. Each
    window shares by itself.

    Args:
        *args: Of mmseg's ``EncoderDecoder``.
        **kwargs: Of mmseg's ``EncoderDecoder``.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.sharing is not None:
            self.sharing.normalisation = Normalisation.of(self.data_preprocessor)

    @property
    def sharing(self) -> TokenSharing | None:
        """The backbone's sharing, None if it shares nothing."""
        return getattr(self.backbone, "sharing", None)

    def loss(self, inputs: Tensor, data_samples: Sequence[Any]) -> dict[str, Tensor]:
        """mmseg's losses; the policy may see the labels."""
        maps = label_maps(data_samples, inputs, IGNORED) if self._asks_for_labels else None
        with self._given(maps):
            return super().loss(inputs, data_samples)

    def predict(self, inputs: Tensor, data_samples: Sequence[Any] | None = None) -> Sequence[Any]:
        """mmseg's prediction; the policy may see the labels of each window."""
        if not self._asks_for_labels or data_samples is None:
            return super().predict(inputs, data_samples)
        maps = label_maps(data_samples, inputs, IGNORED, flip=True)
        if maps is None:
            return super().predict(inputs, data_samples)
        carried = torch.cat([inputs, maps[:, None].to(inputs)], dim=1)  # (B, 4, H, W)
        return super().predict(carried, data_samples)

    def encode_decode(self, inputs: Tensor, batch_img_metas: list[dict]) -> Tensor:
        """mmseg's; takes a label map as a fourth channel."""
        images, labels = inputs[:, :3], None
        if inputs.shape[1] > 3:
            labels = inputs[:, 3].round().long()
        with self._given(labels):
            return super().encode_decode(images, batch_img_metas)

    @property
    def _asks_for_labels(self) -> bool:
        return self.sharing is not None and self.sharing.policy.needs_labels

    @contextmanager
    def _given(self, labels: Tensor | None) -> Iterator[None]:
        if self.sharing is None:
            yield
            return
        with self.sharing.given(labels):
            yield
