_base_ = "./b3_coco_none.py"
model = dict(backbone=dict(merging="plus"))
