# SETR-PUP: convolutions of 3x3, of which the last head has four that each double the grid.
_base_ = "./setr_vit-l.py"
model = dict(
    decode_head=dict(num_convs=4, up_scale=2, kernel_size=3),
    auxiliary_head=[dict(head, kernel_size=3) for head in _base_.model.auxiliary_head],
)
