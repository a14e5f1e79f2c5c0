_base_ = "./segmenter_vit-t.py"
model = dict(
    backbone=dict(arch="s"),
    decode_head=dict(in_channels=384, channels=384, embed_dims=384, num_heads=6),
)
