_base_ = "./b5_cityscapes_none.py"
model = dict(backbone=dict(merging="plus"))
