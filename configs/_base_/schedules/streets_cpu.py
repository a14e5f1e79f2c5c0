# Generated streets on a CPU: some hours on two cores, all scenes different.
_base_ = ["./demo.py"]
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-6, by_epoch=False, begin=0, end=100),
    dict(type="PolyLR", eta_min=0.0, power=1.0, by_epoch=False, begin=100, end=1300),
]
train_cfg = dict(type="IterBasedTrainLoop", max_iters=1300, val_interval=1300)
