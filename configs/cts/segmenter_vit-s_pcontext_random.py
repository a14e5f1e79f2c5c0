# Table 6, random sharing: 90 of a crop's 225 superpatches, 630 of 900 tokens.
_base_ = "./segmenter_vit-s_pcontext_none.py"
policy = dict(type="mmtokmerge.RandomPolicy")
model = dict(
    type="mmtokmerge.SharingEncoderDecoder",
    backbone=dict(sharing=dict(policy=policy, num_shared=90 / 225)),
)
