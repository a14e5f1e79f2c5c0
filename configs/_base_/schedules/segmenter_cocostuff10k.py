# Neither paper nor code gives one for COCO-Stuff-10K: mmseg's for Segmenter, 160k iterations of
# batches of 8.
_base_ = "./segmenter_ade20k.py"
max_iters = 160000
param_scheduler = [dict(_base_.param_scheduler[0], end=max_iters, eta_min=1e-4)]
train_cfg = dict(max_iters=max_iters, val_interval=max_iters // 10)
