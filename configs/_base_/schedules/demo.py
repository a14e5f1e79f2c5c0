# The demo: a few minutes on two CPU cores, enough to tell the small classes apart.
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
    dict(type="LinearLR", start_factor=1e-6, by_epoch=False, begin=0, end=60),
    dict(type="PolyLR", eta_min=0.0, power=1.0, by_epoch=False, begin=60, end=900),
]
train_cfg = dict(type="IterBasedTrainLoop", max_iters=900, val_interval=900)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
