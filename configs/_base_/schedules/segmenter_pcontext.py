# Segmenter's schedule for Pascal-Context: 256 epochs of 4,998 images in batches of 16.
_base_ = "./segmenter_ade20k.py"
max_iters = 256 * 4998 // 16
param_scheduler = [dict(_base_.param_scheduler[0], end=max_iters)]
train_cfg = dict(max_iters=max_iters, val_interval=max_iters // 10)
