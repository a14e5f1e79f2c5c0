# `fast`, where a merged key weighs by the log of its size.
_base_ = "../../configs/segformerpp/b0_cityscapes_fast.py"
model = dict(backbone=dict(proportional=True))
