_base_ = [
    "../_base_/models/segmenter_vit-s.py",
    "../_base_/datasets/cityscapes_768.py",
    "../_base_/schedules/segmenter_cityscapes.py",
    "../_base_/default_runtime.py",
]
checkpoint = "https://download.openmmlab.com/mmsegmentation/v0.5/pretrain/segmenter/vit_small_p16_384_20220308-410f6037.pth"
model = dict(
    data_preprocessor=dict(size=(768, 768)),
    backbone=dict(
        img_size=(768, 768),
        init_cfg=dict(type="Pretrained", checkpoint=checkpoint),
    ),
    decode_head=dict(num_classes=19),
    test_cfg=dict(crop_size=(768, 768), stride=(512, 512)),
)
