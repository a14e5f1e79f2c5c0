"""Segmentors that tell a backbone more than pixels, or predict with an exported file."""

from mmtokmerge.models.segmentors.exported import ExportedSegmentor
from mmtokmerge.models.segmentors.sharing_encoder_decoder import SharingEncoderDecoder

__all__ = ["ExportedSegmentor", "SharingEncoderDecoder"]
