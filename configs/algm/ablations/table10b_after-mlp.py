# Table 10b: merging after the MLP.
_base_ = "../segmenter_vit-s_ade20k_algm.py"
reducers = [dict(reducer, position="after") for reducer in (_base_.clap, _base_.gbm)]
model = dict(backbone=dict(reducers=reducers))
