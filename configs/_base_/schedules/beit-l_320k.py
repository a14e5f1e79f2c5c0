# mmseg's schedule for BEiT-L: 320k iterations of 8 images, two of which make a step; deeper layers
# learn faster. mmseg trains in mixed precision (tools/train.py --amp), and its 1.x ends the linear
# decay at 160k: as in its 0.x, here the decay lasts as long as the training.
max_iters = 320000
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=2e-5, betas=(0.9, 0.999), weight_decay=0.05),
    constructor="LearningRateDecayOptimizerConstructor",
    paramwise_cfg=dict(num_layers=24, decay_rate=0.95, decay_type="layer_wise"),
    accumulative_counts=2,
)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-6, by_epoch=False, begin=0, end=3000),
    dict(type="PolyLR", eta_min=0.0, power=1.0, by_epoch=False, begin=3000, end=max_iters),
]
train_cfg = dict(type="IterBasedTrainLoop", max_iters=max_iters, val_interval=max_iters // 20)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
