_base_ = [
    "../_base_/models/segformer_b0.py",
    "../_base_/datasets/ade20k.py",
    "../_base_/schedules/segformer_160k.py",
    "../_base_/default_runtime.py",
]
checkpoint = "https://download.openmmlab.com/mmsegmentation/v0.5/pretrain/segformer/mit_b0_20220624-7e0fe6dd.pth"
model = dict(
    data_preprocessor=dict(size=(640, 640)),
    backbone=dict(init_cfg=dict(type="Pretrained", checkpoint=checkpoint)),
    decode_head=dict(num_classes=150),
)
