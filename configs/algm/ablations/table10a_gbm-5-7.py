# Table 10a: GBM in layers 5 and 7.
_base_ = "../segmenter_vit-s_ade20k_algm.py"
model = dict(backbone=dict(reducers=[_base_.clap, dict(_base_.gbm, layer=[5, 7])]))
