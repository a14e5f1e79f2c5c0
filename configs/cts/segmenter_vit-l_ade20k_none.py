_base_ = "../algm/segmenter_vit-l_ade20k_none.py"
