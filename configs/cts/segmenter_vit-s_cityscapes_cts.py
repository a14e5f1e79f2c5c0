# Table 6: 336 of a crop's 576 superpatches, 1,296 of 2,304 tokens.
_base_ = ["./segmenter_vit-s_cityscapes_none.py", "../_base_/models/sharing_lite0.py"]
model = dict(
    type="mmtokmerge.SharingEncoderDecoder",
    backbone=dict(sharing=dict(policy=_base_.policy, num_shared=336 / 576)),
)
