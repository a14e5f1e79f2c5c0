_base_ = "./segmenter_vit-t.py"
model = dict(
    backbone=dict(arch="l"),
    decode_head=dict(in_channels=1024, channels=1024, embed_dims=1024, num_heads=16),
)
