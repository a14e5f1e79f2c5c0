# Table 5a: CLAP in windows of 2x4 (height x width).
_base_ = "../segmenter_vit-s_ade20k_algm.py"
model = dict(backbone=dict(reducers=[dict(_base_.clap, window=(2, 4)), _base_.gbm]))
