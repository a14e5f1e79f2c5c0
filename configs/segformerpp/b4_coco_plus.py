_base_ = "./b4_coco_none.py"
model = dict(backbone=dict(merging="plus"))
