_base_ = "./b5_ade20k_none.py"
model = dict(backbone=dict(merging="plus"))
