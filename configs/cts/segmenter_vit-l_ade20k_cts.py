# Figure 5: of a crop's 400 superpatches the 160 that leave 70 % of the tokens, as at 512.
_base_ = ["./segmenter_vit-l_ade20k_none.py", "../_base_/models/sharing_lite0.py"]
model = dict(
    type="mmtokmerge.SharingEncoderDecoder",
    backbone=dict(sharing=dict(policy=_base_.policy, num_shared=103 / 256)),
)
