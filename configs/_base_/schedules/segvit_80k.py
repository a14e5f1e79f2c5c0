# As segvit_160k.py, in half the iterations.
_base_ = "./segvit_160k.py"
max_iters = 80000
param_scheduler = [_base_.param_scheduler[0], dict(_base_.param_scheduler[1], end=max_iters)]
train_cfg = dict(max_iters=max_iters, val_interval=max_iters // 10)
