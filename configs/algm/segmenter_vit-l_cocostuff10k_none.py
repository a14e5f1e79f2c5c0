_base_ = [
    "../_base_/models/segmenter_vit-l.py",
    "../_base_/datasets/coco_stuff10k.py",
    "../_base_/schedules/segmenter_cocostuff10k.py",
    "../_base_/default_runtime.py",
]
checkpoint = "https://download.openmmlab.com/mmsegmentation/v0.5/pretrain/segmenter/vit_large_p16_384_20220308-d4efb41d.pth"
model = dict(
    data_preprocessor=dict(size=(512, 512)),
    backbone=dict(init_cfg=dict(type="Pretrained", checkpoint=checkpoint)),
    decode_head=dict(num_classes=171),
)
