_base_ = "./b5_jbd_none.py"
model = dict(backbone=dict(merging="plus"))
