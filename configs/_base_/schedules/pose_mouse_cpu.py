# The mice from scratch on a CPU: 100 epochs of 12 iterations, under half an hour on two cores for
# B0, the rate falling linearly to zero.
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=1e-3, betas=(0.9, 0.999), weight_decay=0.01),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=60),
    dict(type="PolyLR", eta_min=0.0, power=1.0, by_epoch=False, begin=60, end=1200),
]
train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=100, val_interval=20)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
