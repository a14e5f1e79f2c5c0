_base_ = [
    "../_base_/models/upernet_vit-b.py",
    "../_base_/datasets/ade20k_512.py",
    "../_base_/schedules/segvit_160k.py",
    "../_base_/default_runtime.py",
]
# The weights: timm's, through tools/convert_weights.py (docs/weights.md).
model = dict(
    data_preprocessor=dict(size=(512, 512)),
    backbone=dict(init_cfg=dict(type="Pretrained", checkpoint="pretrain/vit_base_p16_224.pth")),
)
train_dataloader = dict(batch_size=16)
auto_scale_lr = dict(enable=False, base_batch_size=16)
