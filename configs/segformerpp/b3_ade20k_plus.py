_base_ = "./b3_ade20k_none.py"
model = dict(backbone=dict(merging="plus"))
