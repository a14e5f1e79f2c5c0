# Table 10d, fine-tuning: the baseline's weights, with tau from tools/calibrate_threshold.py,
# trained for 16 epochs more. (Direct: test ../segmenter_vit-s_ade20k_algm.py with those weights.)
_base_ = "../segmenter_vit-s_ade20k_algm.py"
load_from = "work_dirs/segmenter_vit-s_ade20k_none/iter_161680_calibrated.pth"
max_iters = 16 * 20210 // 8
model = dict(backbone=dict(init_cfg=None))
param_scheduler = [dict(_base_.param_scheduler[0], end=max_iters)]
train_cfg = dict(max_iters=max_iters, val_interval=max_iters // 4)
