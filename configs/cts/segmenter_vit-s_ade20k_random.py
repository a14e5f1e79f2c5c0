# Table 1, random sharing: 103 of a crop's 256 superpatches, 715 of 1,024 tokens.
_base_ = "./segmenter_vit-s_ade20k_none.py"
policy = dict(type="mmtokmerge.RandomPolicy")
model = dict(
    type="mmtokmerge.SharingEncoderDecoder",
    backbone=dict(sharing=dict(policy=policy, num_shared=103 / 256)),
)
