_base_ = "./b0_jbd_none.py"
model = dict(backbone=dict(merging="plus"))
