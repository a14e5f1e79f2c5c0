# Table 1: S = 256, 256 of 1,024 tokens.
_base_ = "../segmenter_vit-s_ade20k_random.py"
model = dict(backbone=dict(sharing=dict(num_shared=256 / 256)))
