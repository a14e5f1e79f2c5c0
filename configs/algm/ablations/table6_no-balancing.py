# Table 6, no balancing: tokens are averaged, but none is removed.
_base_ = "../segmenter_vit-s_ade20k_algm.py"
reducers = [dict(reducer, reduce=False) for reducer in (_base_.clap, _base_.gbm)]
model = dict(backbone=dict(reducers=reducers))
