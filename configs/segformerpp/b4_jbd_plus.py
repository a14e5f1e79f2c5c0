_base_ = "./b4_jbd_none.py"
model = dict(backbone=dict(merging="plus"))
