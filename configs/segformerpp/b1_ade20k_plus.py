_base_ = "./b1_ade20k_none.py"
model = dict(backbone=dict(merging="plus"))
