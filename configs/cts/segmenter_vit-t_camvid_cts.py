# 40 % of the whole superpatches, as on ADE20K: 39 of the 99 of a crop, 66 of the 165 of an image.
_base_ = ["./segmenter_vit-t_camvid_none.py", "../_base_/models/sharing_lite0.py"]
model = dict(
    type="mmtokmerge.SharingEncoderDecoder",
    backbone=dict(sharing=dict(policy=_base_.policy, num_shared=0.4)),
)
