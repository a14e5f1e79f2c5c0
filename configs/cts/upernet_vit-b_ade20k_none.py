_base_ = "../algm/upernet_vit-b_ade20k_none.py"
