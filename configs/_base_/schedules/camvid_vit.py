# CamVid from scratch on a CPU for ViT-T: about half an hour on two cores without merging. Every
# length below follows from max_iters.
max_iters = 1800
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=7e-4, betas=(0.9, 0.999), weight_decay=0.05),
    clip_grad=dict(max_norm=1.0),
    paramwise_cfg=dict(
        norm_decay_mult=0.0,
        bias_decay_mult=0.0,
        custom_keys=dict(
            pos_embed=dict(decay_mult=0.0),
            cls_token=dict(decay_mult=0.0),
            cls_emb=dict(decay_mult=0.0),
            class_embed=dict(decay_mult=0.0),
        ),
    ),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, by_epoch=False, begin=0, end=max_iters // 12),
    dict(
        type="PolyLR",
        eta_min=0.0,
        power=1.0,
        by_epoch=False,
        begin=max_iters // 12,
        end=max_iters,
    ),
]
train_cfg = dict(type="IterBasedTrainLoop", max_iters=max_iters, val_interval=max_iters // 4)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
