_base_ = "./b0_ade20k_none.py"
model = dict(backbone=dict(merging="plus"))
