# 40% of the superpatches of a window share: 51 of 128.
_base_ = ["../algm/segmenter_vit-t_streets_none.py", "../_base_/models/sharing_lite0.py"]
model = dict(
    type="mmtokmerge.SharingEncoderDecoder",
    backbone=dict(sharing=dict(policy=_base_.policy, num_shared=0.4)),
)
