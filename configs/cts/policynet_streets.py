# The policy network on generated streets without end, from scratch on a CPU.
_base_ = [
    "../_base_/models/sharing_lite0.py",
    "../_base_/datasets/streets_vit.py",
    "../_base_/default_runtime.py",
]
targets = dict(type="mmtokmerge.GenerateSharingTargets")
train_pipeline = [*_base_.train_pipeline[:-1], targets, _base_.train_pipeline[-1]]
test_pipeline = [*_base_.test_pipeline[:-1], targets, _base_.test_pipeline[-1]]
train_dataloader = dict(batch_size=8, dataset=dict(pipeline=train_pipeline))
auto_scale_lr = dict(enable=False, base_batch_size=8)
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(_delete_=True, type="mmtokmerge.SharingPrecision", num_shared=0.4)
test_evaluator = val_evaluator
model = dict(
    _base_.policy_network,
    pretrained=False,
    data_preprocessor=dict(_base_.policy_network.data_preprocessor, size=(256, 512)),
)
max_iters = 200
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=1e-3, betas=(0.9, 0.999), weight_decay=1e-3),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, by_epoch=False, begin=0, end=20),
    dict(type="PolyLR", eta_min=0.0, power=1.0, by_epoch=False, begin=20, end=max_iters),
]
train_cfg = dict(type="IterBasedTrainLoop", max_iters=max_iters, val_interval=max_iters // 2)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
default_hooks = dict(checkpoint=dict(interval=100, save_best="precision", max_keep_ckpts=2))
