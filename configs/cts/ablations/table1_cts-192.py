# Table 1: S = 192, 448 of 1,024 tokens.
_base_ = "../segmenter_vit-s_ade20k_cts.py"
model = dict(backbone=dict(sharing=dict(num_shared=192 / 256)))
