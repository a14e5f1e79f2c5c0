"""mmseg's encoder-decoder around a backbone whose tokens a policy shares (CTS)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from mmseg.models.segmentors import EncoderDecoder
from torch import Tensor

from mmtokmerge.models.policies import Normalisation, TokenSharing
from mmtokmerge.models.segmentors.label_maps import label_maps
from mmtokmerge.registry import MODELS

IGNORED = 255


@MODELS.register_module()
class SharingEncoderDecoder(EncoderDecoder):
    """mmseg's ``EncoderDecoder`` that serves the policy of ``backbone.sharing``.

    It tells the policy how images are normalised, so that a policy network gets them in its own
    way, and hands it label maps if it asks for them: ground truth in training and in tests, or its
    own prediction of the previous frame. They ride along as one more channel of the images, so that
    sliding windows cut both alike. Each window shares by itself.

    Args:
        *args: Arguments of mmseg's ``EncoderDecoder``.
        **kwargs: Arguments of the same.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._carrying = False  # whether images have a label map as their last channel
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
        with self._carry(inputs, maps) as carried:
            return super().predict(carried, data_samples)

    def inference(self, inputs: Tensor, batch_img_metas: list[dict]) -> Tensor:
        """mmseg's, whole or in windows; a policy that goes by frames follows them."""
        if self.sharing is None:
            return super().inference(inputs, batch_img_metas)
        policy = self.sharing.policy
        size = (inputs.shape[2], inputs.shape[3])
        with policy.frame(size, batch_img_metas) as maps:
            images = inputs[:, :-1] if self._carrying and maps is not None else inputs
            with self._carry(images, maps) as carried:
                logits = super().inference(carried, batch_img_metas)
            if policy.observes:
                policy.observe(self._labels_of(logits))
        return logits

    def encode_decode(self, inputs: Tensor, batch_img_metas: list[dict]) -> Tensor:
        """mmseg's; takes a label map as a last channel."""
        images, labels = inputs, None
        if self._carrying:
            images, labels = inputs[:, :-1], inputs[:, -1].round().long()
        with self._given(labels):
            return super().encode_decode(images, batch_img_metas)

    @contextmanager
    def serving(
        self, inputs: Tensor, data_samples: Sequence[Any] | None, window: tuple[int, int]
    ) -> Iterator[None]:
        """While open, the backbone may be run by itself on a test's images, to see what it shares.

        Args:
            inputs: ``(B, 3, H, W)`` after the data preprocessor.
            data_samples: The samples of the images.
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
    def _carry(self, images: Tensor, labels: Tensor | None) -> Iterator[Tensor]:
        """Images ``(B, C, H, W)`` with label maps ``(B, H, W)`` as one more channel, if given."""
        if labels is None:
            yield images
            return
        before, self._carrying = self._carrying, True
        try:
            yield torch.cat([images, labels[:, None].to(images)], dim=1)
        finally:
            self._carrying = before

    @contextmanager
    def _given(self, labels: Tensor | None) -> Iterator[None]:
        if self.sharing is None:
            yield
            return
        with self.sharing.given(labels):
            yield
