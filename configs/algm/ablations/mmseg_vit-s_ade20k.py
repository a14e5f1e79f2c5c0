# ViT-S on ADE20K as mmseg's own config of Segmenter: drop path and no dropout in the decoder,
# norms with eps 1e-6, windows that overlap by 32 pixels.
_base_ = "../segmenter_vit-s_ade20k_none.py"
model = dict(
    backbone=dict(norm_cfg=dict(eps=1e-6)),
    decode_head=dict(drop_rate=0.0, drop_path_rate=0.1),
    test_cfg=dict(stride=(480, 480)),
)
