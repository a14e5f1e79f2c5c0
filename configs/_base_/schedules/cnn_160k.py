# mmseg's schedule for convolutional networks on ADE20K: 160k iterations of SGD.
_base_ = "./segmenter_ade20k.py"
max_iters = 160000
optim_wrapper = dict(optimizer=dict(lr=1e-2, weight_decay=5e-4))
param_scheduler = [dict(_base_.param_scheduler[0], end=max_iters, eta_min=1e-4)]
train_cfg = dict(max_iters=max_iters, val_interval=max_iters // 10)
