_base_ = "./segmenter_vit-t.py"
model = dict(
    backbone=dict(arch="b"),
    decode_head=dict(in_channels=768, channels=768, embed_dims=768, num_heads=12),
)
