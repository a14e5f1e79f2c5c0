_base_ = "./b0_stick_none.py"
model = dict(backbone=dict(merging="plus"))
