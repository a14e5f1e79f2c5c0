# Table 5b: CLAP in layer 1 alone.
_base_ = "../segmenter_vit-s_ade20k_algm.py"
model = dict(backbone=dict(reducers=[_base_.clap]))
