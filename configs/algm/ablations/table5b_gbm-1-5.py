# Table 5b: GBM in layers 1 and 5, no CLAP.
_base_ = "../segmenter_vit-s_ade20k_algm.py"
model = dict(backbone=dict(reducers=[dict(_base_.gbm, layer=[1, 5])]))
