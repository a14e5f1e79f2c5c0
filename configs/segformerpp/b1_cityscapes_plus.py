_base_ = "./b1_cityscapes_none.py"
model = dict(backbone=dict(merging="plus"))
