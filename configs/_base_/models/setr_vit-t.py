# mmseg has no SETR of 12 layers: the outputs stand where ViT-L's do, at half the depth.
_base_ = "./setr_vit-l.py"
model = dict(
    backbone=dict(arch="t", out_indices=(4, 7, 9, 11)),
    decode_head=dict(in_channels=192),
    auxiliary_head=[dict(head, in_channels=192) for head in _base_.model.auxiliary_head],
)
