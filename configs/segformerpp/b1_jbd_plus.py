_base_ = "./b1_jbd_none.py"
model = dict(backbone=dict(merging="plus"))
