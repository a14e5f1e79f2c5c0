# Table 2: FCN on MobileNetV2, trained as mmseg does, to tell by its labels who shares.
_base_ = [
    "../_base_/models/sharing_fcn.py",
    "../_base_/datasets/ade20k_512.py",
    "../_base_/schedules/cnn_160k.py",
    "../_base_/default_runtime.py",
]
network = _base_.policy.network
weights = dict(type="Pretrained", checkpoint="mmcls://mobilenet_v2")
model = dict(
    network,
    data_preprocessor=dict(network.data_preprocessor, size=(512, 512)),
    backbone=dict(network.backbone, init_cfg=weights),
)
train_dataloader = dict(batch_size=16)
auto_scale_lr = dict(enable=False, base_batch_size=16)
