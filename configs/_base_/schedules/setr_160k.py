# mmseg's schedule for SETR-Naive on ADE20K: 160k iterations of SGD, the heads at 10 times the rate.
max_iters = 160000
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="SGD", lr=1e-2, momentum=0.9, weight_decay=0.0),
    paramwise_cfg=dict(custom_keys=dict(head=dict(lr_mult=10.0))),
)
param_scheduler = [
    dict(type="PolyLR", eta_min=1e-4, power=0.9, by_epoch=False, begin=0, end=max_iters),
]
train_cfg = dict(type="IterBasedTrainLoop", max_iters=max_iters, val_interval=max_iters // 10)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
