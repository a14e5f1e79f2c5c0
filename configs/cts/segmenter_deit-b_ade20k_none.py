# Table 3: DeiT-B with its distillation token. The weights: deit_base_distilled_patch16_384, through
# tools/convert_weights.py (docs/weights.md), normalised as they were trained.
_base_ = "./segmenter_vit-b_ade20k_none.py"
checkpoint = "pretrain/deit_base_distilled_p16_384.pth"
model = dict(
    data_preprocessor=dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375]),
    backbone=dict(with_dist_token=True, init_cfg=dict(checkpoint=checkpoint)),
)
