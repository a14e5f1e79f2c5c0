_base_ = "./b3_cityscapes_none.py"
model = dict(backbone=dict(merging="plus"))
