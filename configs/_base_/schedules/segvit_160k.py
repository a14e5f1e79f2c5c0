# mmseg's schedule for transformers with AdamW, as its UPerNet on ViT-B has it: 160k iterations at
# 6e-5, warmed up for 1,500, then linear to zero; no decay on norms, positions and classes.
max_iters = 160000
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=6e-5, betas=(0.9, 0.999), weight_decay=0.01),
    paramwise_cfg=dict(
        norm_decay_mult=0.0,
        custom_keys=dict(
            pos_embed=dict(decay_mult=0.0),
            cls_token=dict(decay_mult=0.0),
            class_embed=dict(decay_mult=0.0),
        ),
    ),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-6, by_epoch=False, begin=0, end=1500),
    dict(type="PolyLR", eta_min=0.0, power=1.0, by_epoch=False, begin=1500, end=max_iters),
]
train_cfg = dict(type="IterBasedTrainLoop", max_iters=max_iters, val_interval=max_iters // 10)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
