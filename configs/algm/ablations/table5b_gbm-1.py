# Table 5b: GBM in layer 1 alone.
_base_ = "../segmenter_vit-s_ade20k_algm.py"
model = dict(backbone=dict(reducers=[dict(_base_.gbm, layer=1)]))
