# Table 3: BEiT-B. The weights: beit_base_patch16_384_pt22k_ft22kto1k.pth, through mmseg's
# tools/model_converters/beit2mmseg.py.
_base_ = [
    "../_base_/models/segmenter_beit-b.py",
    "../_base_/datasets/ade20k_512.py",
    "../_base_/schedules/segmenter_ade20k.py",
    "../_base_/default_runtime.py",
]
checkpoint = "pretrain/beit_base_patch16_384_pt22k_ft22kto1k.pth"
model = dict(
    data_preprocessor=dict(size=(512, 512)),
    backbone=dict(init_cfg=dict(type="Pretrained", checkpoint=checkpoint)),
)
