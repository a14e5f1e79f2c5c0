_base_ = "./b0_camvid_none.py"
model = dict(backbone=dict(merging="plus"))
