# CamVid from scratch on a CPU: 3,000 iterations for B0.
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=8e-4, betas=(0.9, 0.999), weight_decay=0.01),
    paramwise_cfg=dict(
        custom_keys=dict(
            pos_block=dict(decay_mult=0.0),
            norm=dict(decay_mult=0.0),
        )
    ),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-6, by_epoch=False, begin=0, end=100),
    dict(type="PolyLR", eta_min=0.0, power=1.0, by_epoch=False, begin=100, end=3000),
]
train_cfg = dict(type="IterBasedTrainLoop", max_iters=3000, val_interval=750)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
