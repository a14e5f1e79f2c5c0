# Table 6, no denoising: a group is one of its tokens, picked at random.
_base_ = "../segmenter_vit-s_ade20k_algm.py"
reducers = [dict(reducer, operation="random") for reducer in (_base_.clap, _base_.gbm)]
model = dict(backbone=dict(reducers=reducers))
