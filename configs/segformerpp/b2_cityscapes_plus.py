_base_ = "./b2_cityscapes_none.py"
model = dict(backbone=dict(merging="plus"))
