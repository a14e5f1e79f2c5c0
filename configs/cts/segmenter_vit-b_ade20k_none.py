_base_ = "../algm/segmenter_vit-b_ade20k_none.py"
