# As ALGM's on CamVid, but with a third fewer iterations: five networks are compared here.
_base_ = "../algm/segmenter_vit-t_camvid_none.py"
max_iters = 1200
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
train_cfg = dict(max_iters=max_iters, val_interval=max_iters // 2)
