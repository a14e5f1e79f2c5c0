_base_ = [
    "../_base_/models/segmenter_vit-l.py",
    "../_base_/datasets/pascal_context.py",
    "../_base_/schedules/segmenter_pcontext.py",
    "../_base_/default_runtime.py",
]
# 60 classes, the background among them, as Segmenter's paper has it.
checkpoint = "https://download.openmmlab.com/mmsegmentation/v0.5/pretrain/segmenter/vit_large_p16_384_20220308-d4efb41d.pth"
model = dict(
    data_preprocessor=dict(size=(480, 480)),
    backbone=dict(
        img_size=(480, 480),
        init_cfg=dict(type="Pretrained", checkpoint=checkpoint),
    ),
    decode_head=dict(num_classes=60),
    test_cfg=dict(crop_size=(480, 480), stride=(320, 320)),
)
