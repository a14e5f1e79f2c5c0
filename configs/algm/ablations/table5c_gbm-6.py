# Table 5c: GBM in layer 6.
_base_ = "../segmenter_vit-s_ade20k_algm.py"
model = dict(backbone=dict(reducers=[_base_.clap, dict(_base_.gbm, layer=6)]))
