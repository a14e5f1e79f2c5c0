_base_ = [
    "../_base_/models/segformer_b4.py",
    "../_base_/datasets/cityscapes.py",
    "../_base_/schedules/segformer_160k.py",
    "../_base_/default_runtime.py",
]
checkpoint = "https://download.openmmlab.com/mmsegmentation/v0.5/pretrain/segformer/mit_b4_20220624-d588d980.pth"
model = dict(
    data_preprocessor=dict(size=(1024, 1024)),
    backbone=dict(init_cfg=dict(type="Pretrained", checkpoint=checkpoint)),
    test_cfg=dict(mode="slide", crop_size=(1024, 1024), stride=(768, 768)),
)
