# Towards table 7b: each image shares as many superpatches as the policy network is sure of.
_base_ = "../segmenter_vit-s_ade20k_cts.py"
model = dict(backbone=dict(sharing=dict(num_shared=None, threshold=0.5)))
