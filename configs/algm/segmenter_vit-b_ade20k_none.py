_base_ = [
    "../_base_/models/segmenter_vit-b.py",
    "../_base_/datasets/ade20k_512.py",
    "../_base_/schedules/segmenter_ade20k.py",
    "../_base_/default_runtime.py",
]
checkpoint = "https://download.openmmlab.com/mmsegmentation/v0.5/pretrain/segmenter/vit_base_p16_384_20220308-96dfe169.pth"
model = dict(
    data_preprocessor=dict(size=(512, 512)),
    backbone=dict(init_cfg=dict(type="Pretrained", checkpoint=checkpoint)),
)
