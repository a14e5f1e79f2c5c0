# Table 12, fine-tuning: the baseline's weights, trained as long again. (Direct: test
# ../segmenter_vit-l_ade20k_tome.py with those weights.)
_base_ = "../segmenter_vit-l_ade20k_tome.py"
load_from = "work_dirs/segmenter_vit-l_ade20k_none/iter_161680.pth"
model = dict(backbone=dict(init_cfg=None))
