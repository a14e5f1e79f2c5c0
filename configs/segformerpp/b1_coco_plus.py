_base_ = "./b1_coco_none.py"
model = dict(backbone=dict(merging="plus"))
