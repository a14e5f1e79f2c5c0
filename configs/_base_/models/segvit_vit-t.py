_base_ = "./segvit_vit-l.py"
model = dict(
    backbone=dict(arch="t", out_indices=(3, 7, 11)),
    decode_head=dict(in_channels=[192, 192, 192], channels=192, num_heads=3),
)
