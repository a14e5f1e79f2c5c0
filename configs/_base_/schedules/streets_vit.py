# Generated streets from scratch on a CPU for ViT-T: about an hour and a half on one core in bf16
# (--amp) without merging.
_base_ = ["./camvid_vit.py"]
max_iters = 2400
optim_wrapper = dict(optimizer=dict(lr=1e-3))
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
