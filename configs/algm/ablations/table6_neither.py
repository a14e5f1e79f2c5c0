# Table 6, neither balancing nor denoising: tokens take a random one's place, but none is removed.
_base_ = "./table6_no-denoising.py"
reducers = [dict(reducer, reduce=False) for reducer in _base_.reducers]
model = dict(backbone=dict(reducers=reducers))
