# The baseline of Table II: half the image, anti-aliased bilinear, and no merging.
_base_ = "./b5_ade20k_none.py"
model = dict(backbone=dict(merging="none", downsample=2))
