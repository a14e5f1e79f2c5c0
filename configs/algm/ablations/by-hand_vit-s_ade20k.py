# The threshold that ALGM's authors set by hand, 0.88, instead of one computed from data.
_base_ = "../segmenter_vit-s_ade20k_algm.py"
reducers = [dict(reducer, threshold=0.88) for reducer in (_base_.clap, _base_.gbm)]
model = dict(backbone=dict(reducers=reducers))
