# Table 10f: queries are compared, not tokens.
_base_ = "../segmenter_vit-s_ade20k_algm.py"
reducers = [dict(reducer, feature="Q") for reducer in (_base_.clap, _base_.gbm)]
model = dict(backbone=dict(reducers=reducers))
