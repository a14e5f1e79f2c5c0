# EVA's schedule on ADE20K, from weights tuned on COCO-Stuff-164K: 40k iterations, AdamW, a learning
# rate that falls by 0.9 from layer to layer, warm-up over 1,500.
max_iters = 40000
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=1e-5, betas=(0.9, 0.999), weight_decay=0.05),
    constructor="mmtokmerge.LayerDecayConstructor",
    paramwise_cfg=dict(num_layers=40, decay_rate=0.9),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-6, by_epoch=False, begin=0, end=1500),
    dict(type="PolyLR", eta_min=0.0, power=1.0, by_epoch=False, begin=1500, end=max_iters),
]
train_cfg = dict(type="IterBasedTrainLoop", max_iters=max_iters, val_interval=max_iters // 10)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
