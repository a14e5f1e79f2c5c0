_base_ = "./b2_coco_none.py"
model = dict(backbone=dict(merging="plus"))
