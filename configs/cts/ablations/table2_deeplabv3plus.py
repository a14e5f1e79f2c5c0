# Table 2: labels by DeepLabv3+ on ResNet-101.
_base_ = ["../segmenter_vit-s_ade20k_none.py", "../../_base_/models/sharing_deeplabv3plus.py"]
model = dict(
    type="mmtokmerge.SharingEncoderDecoder",
    backbone=dict(sharing=dict(policy=_base_.policy, num_shared=103 / 256)),
)
