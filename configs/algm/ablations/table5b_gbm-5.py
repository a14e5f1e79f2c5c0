# Table 5b: GBM in layer 5 alone.
_base_ = "../segmenter_vit-s_ade20k_algm.py"
model = dict(backbone=dict(reducers=[_base_.gbm]))
