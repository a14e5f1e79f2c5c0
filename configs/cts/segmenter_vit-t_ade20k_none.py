_base_ = "../algm/segmenter_vit-t_ade20k_none.py"
