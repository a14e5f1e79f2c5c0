_base_ = "../algm/segmenter_vit-s_ade20k_none.py"
