_base_ = "../algm/segmenter_vit-l_cityscapes_none.py"
