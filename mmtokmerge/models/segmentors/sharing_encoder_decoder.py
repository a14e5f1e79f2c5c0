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
    way, and hands it label maps if it asks for them: ground truth in training and in tests, or its
    own prediction of the previous frame. They ride along as a fourth channel of the images, so that
    sliding windows cut both alike. Each window shares by itself.

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
        return super().predict(_carry(inputs, maps), data_samples)

    def inference(self, inputs: Tensor, batch_img_metas: list[dict]) -> Tensor:
        """mmseg's, whole or in windows; a policy that goes by frames follows them."""
        if self.sharing is None:
            return super().inference(inputs, batch_img_metas)
        policy = self.sharing.policy
        size = (inputs.shape[2], inputs.shape[3])
        with policy.frame(size, batch_img_metas) as maps:
            if maps is not None:
                inputs = _carry(inputs[:, :3], maps)
            logits = super().inference(inputs, batch_img_metas)
            if policy.observes:
                policy.observe(self._labels_of(logits))
        return logits

    def encode_decode(self, inputs: Tensor, batch_img_metas: list[dict]) -> Tensor:
        """mmseg's; takes a label map as a fourth channel."""
        images, labels = inputs[:, :3], None
        if inputs.shape[1] > 3:
            labels = inputs[:, 3].round().long()
        with self._given(labels):
            return super().encode_decode(images, batch_img_metas)

    @contextmanager
    def serving(
        self, inputs: Tensor, data_samples: Sequence[Any] | None, window: tuple[int, int]
    ) -> Iterator[None]:
        """While open, the backbone may be run by itself on a test's images, to see what it shares.

        Args:
            inputs: ``(B, 3, H, W)`` after the data preprocessor.
            data_samples: Of the images.
            window: Height and width of their top left part that the backbone is run on.
        """
        samples = data_samples or []
        maps = None
        if self._asks_for_labels and samples:
            maps = label_maps(samples, inputs, IGNORED, flip=True)
        if self.sharing is None:
            yield
            return
        size = (inputs.shape[2], inputs.shape[3])
        metas = [sample.metainfo for sample in samples]
        with self.sharing.policy.frame(size, metas) as known:
            maps = maps if known is None else known
            with self._given(None if maps is None else maps[:, : window[0], : window[1]]):
                yield

    def _labels_of(self, logits: Tensor) -> Tensor:
        """Labels ``(B, H, W)`` of logits ``(B, C, H, W)``, as mmseg's ``postprocess_result``."""
        if logits.shape[1] > 1:
            return logits.argmax(1)
        return (logits[:, 0].sigmoid() > self.decode_head.threshold).long()

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


def _carry(images: Tensor, labels: Tensor) -> Tensor:
    """Images ``(B, 3, H, W)`` and label maps ``(B, H, W)`` as ``(B, 4, H, W)``."""
    return torch.cat([images, labels[:, None].to(images)], dim=1)
