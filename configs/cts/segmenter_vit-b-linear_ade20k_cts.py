# Table 4: 103 of a crop's 256 superpatches, 715 of 1,024 tokens.
_base_ = ["./segmenter_vit-b-linear_ade20k_none.py", "../_base_/models/sharing_lite0.py"]
model = dict(
    type="mmtokmerge.SharingEncoderDecoder",
    backbone=dict(sharing=dict(policy=_base_.policy, num_shared=103 / 256)),
)
