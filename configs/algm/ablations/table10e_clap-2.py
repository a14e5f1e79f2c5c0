# Table 10e: CLAP in layer 2.
_base_ = "../segmenter_vit-s_ade20k_algm.py"
model = dict(backbone=dict(reducers=[dict(_base_.clap, layer=2), _base_.gbm]))
