_base_ = [
    "../_base_/models/setr_vit-b.py",
    "../_base_/datasets/pascal_context_mmseg.py",
    "../_base_/schedules/setr_80k.py",
    "../_base_/default_runtime.py",
]
# 60 classes, the background among them, and 80k iterations, as SETR's paper has it: mmseg has no
# SETR for this data set. The weights: timm's, through tools/convert_weights.py (docs/weights.md).
model = dict(
    data_preprocessor=dict(size=(480, 480)),
    backbone=dict(
        img_size=(480, 480),
        init_cfg=dict(type="Pretrained", checkpoint="pretrain/vit_base_p16_384.pth"),
    ),
    decode_head=dict(num_classes=60),
    auxiliary_head=[dict(head, num_classes=60) for head in _base_.model.auxiliary_head],
    test_cfg=dict(crop_size=(480, 480), stride=(320, 320)),
)
