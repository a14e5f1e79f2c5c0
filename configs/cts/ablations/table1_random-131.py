# Table 1: S = 131, 631 of 1,024 tokens, chosen at random.
_base_ = "../segmenter_vit-s_ade20k_random.py"
model = dict(backbone=dict(sharing=dict(num_shared=131 / 256)))
