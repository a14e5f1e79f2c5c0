_base_ = [
    "../_base_/models/segmenter_vit-l.py",
    "../_base_/datasets/ade20k.py",
    "../_base_/schedules/segmenter_ade20k.py",
    "../_base_/default_runtime.py",
]
checkpoint = "https://download.openmmlab.com/mmsegmentation/v0.5/pretrain/segmenter/vit_large_p16_384_20220308-d4efb41d.pth"
model = dict(
    data_preprocessor=dict(size=(640, 640)),
    backbone=dict(
        img_size=(640, 640),
        init_cfg=dict(type="Pretrained", checkpoint=checkpoint),
    ),
    test_cfg=dict(crop_size=(640, 640), stride=(640, 640)),
)
