_base_ = "./b0_coco_none.py"
model = dict(backbone=dict(merging="plus"))
