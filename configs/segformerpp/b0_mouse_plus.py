_base_ = "./b0_mouse_none.py"
model = dict(backbone=dict(merging="plus"))
