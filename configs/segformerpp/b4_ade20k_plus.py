_base_ = "./b4_ade20k_none.py"
model = dict(backbone=dict(merging="plus"))
