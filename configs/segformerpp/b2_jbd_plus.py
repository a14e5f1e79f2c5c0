_base_ = "./b2_jbd_none.py"
model = dict(backbone=dict(merging="plus"))
