# Table 6, random sharing: 336 of a crop's 576 superpatches, 1,296 of 2,304 tokens.
_base_ = "./segmenter_vit-s_cityscapes_none.py"
policy = dict(type="mmtokmerge.RandomPolicy")
model = dict(
    type="mmtokmerge.SharingEncoderDecoder",
    backbone=dict(sharing=dict(policy=policy, num_shared=336 / 576)),
)
