# Segmenter's schedule for Cityscapes: 216 epochs of 2,975 images in batches of 8.
_base_ = "./segmenter_ade20k.py"
max_iters = 216 * 2975 // 8
optim_wrapper = dict(optimizer=dict(lr=1e-2))
param_scheduler = [dict(_base_.param_scheduler[0], end=max_iters)]
train_cfg = dict(max_iters=max_iters, val_interval=max_iters // 10)
