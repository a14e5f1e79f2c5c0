# Table 12, fine-tuning: the baseline's weights, with tau from tools/calibrate_threshold.py,
# trained as long again. (Direct: test ../segmenter_vit-l_ade20k_algm.py with those weights.)
_base_ = "../segmenter_vit-l_ade20k_algm.py"
load_from = "work_dirs/segmenter_vit-l_ade20k_none/iter_161680_calibrated.pth"
model = dict(backbone=dict(init_cfg=None))
