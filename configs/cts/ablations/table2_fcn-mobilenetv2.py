# Table 2: labels by FCN on MobileNetV2.
_base_ = ["../segmenter_vit-s_ade20k_none.py", "../../_base_/models/sharing_fcn.py"]
model = dict(
    type="mmtokmerge.SharingEncoderDecoder",
    backbone=dict(sharing=dict(policy=_base_.policy, num_shared=103 / 256)),
)
