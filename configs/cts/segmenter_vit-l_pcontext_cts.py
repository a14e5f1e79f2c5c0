# Table 6: 90 of a crop's 225 superpatches, 630 of 900 tokens.
_base_ = ["./segmenter_vit-l_pcontext_none.py", "../_base_/models/sharing_lite0.py"]
model = dict(
    type="mmtokmerge.SharingEncoderDecoder",
    backbone=dict(sharing=dict(policy=_base_.policy, num_shared=90 / 225)),
)
