_base_ = "./b2_ade20k_none.py"
model = dict(backbone=dict(merging="plus"))
