"""Segmentors that tell a backbone more than pixels."""

from mmtokmerge.models.segmentors.sharing_encoder_decoder import SharingEncoderDecoder

__all__ = ["SharingEncoderDecoder"]
