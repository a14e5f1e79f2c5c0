# CTS, section 4.3: the policy network, 50k iterations of 8 images at a rate that stays.
max_iters = 50000
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=5e-5, betas=(0.9, 0.999), weight_decay=1e-3),
)
param_scheduler = []
train_cfg = dict(type="IterBasedTrainLoop", max_iters=max_iters, val_interval=max_iters // 10)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
