_base_ = "../algm/segmenter_vit-s_cityscapes_none.py"
