_base_ = "./b4_cityscapes_none.py"
model = dict(backbone=dict(merging="plus"))
