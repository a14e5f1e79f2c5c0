# Table 2: DeepLabv3+ on ResNet-101, trained as mmseg does, to tell by its labels who shares.
_base_ = [
    "../_base_/models/sharing_deeplabv3plus.py",
    "../_base_/datasets/ade20k_512.py",
    "../_base_/schedules/cnn_160k.py",
    "../_base_/default_runtime.py",
]
network = _base_.policy.network
weights = dict(type="Pretrained", checkpoint="open-mmlab://resnet101_v1c")
model = dict(
    network,
    data_preprocessor=dict(network.data_preprocessor, size=(512, 512)),
    backbone=dict(network.backbone, init_cfg=weights),
)
train_dataloader = dict(batch_size=16)
auto_scale_lr = dict(enable=False, base_batch_size=16)
