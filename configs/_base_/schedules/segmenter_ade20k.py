# Segmenter's schedule for ADE20K: 64 epochs of 20,210 images in batches of 8, SGD without decay.
max_iters = 64 * 20210 // 8
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="SGD", lr=1e-3, momentum=0.9, weight_decay=0.0),
)
param_scheduler = [
    dict(type="PolyLR", eta_min=1e-5, power=0.9, by_epoch=False, begin=0, end=max_iters),
]
train_cfg = dict(type="IterBasedTrainLoop", max_iters=max_iters, val_interval=max_iters // 10)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
