_base_ = "./b5_coco_none.py"
model = dict(backbone=dict(merging="plus"))
