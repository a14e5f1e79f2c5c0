# The paper's schedule for pose: 210 epochs of AdamW at batch 16, warmed up for 500 iterations, the
# rate divided by 10 after epochs 170 and 200. (The authors' config ends its steps at epoch 70, so
# that their rate never falls.)
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=5e-4, betas=(0.9, 0.999), weight_decay=0.01),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=500),
    dict(type="MultiStepLR", milestones=[170, 200], gamma=0.1, by_epoch=True, begin=0, end=210),
]
train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=210, val_interval=10)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
