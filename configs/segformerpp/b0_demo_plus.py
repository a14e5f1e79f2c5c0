_base_ = "./b0_demo_none.py"
model = dict(backbone=dict(merging="plus"))
