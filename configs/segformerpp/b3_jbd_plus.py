_base_ = "./b3_jbd_none.py"
model = dict(backbone=dict(merging="plus"))
