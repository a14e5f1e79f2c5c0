_base_ = "./b0_cityscapes_none.py"
model = dict(backbone=dict(merging="plus"))
