# Table 2: PolicyNet (small), of configs/_base_/models/sharing_small.py.
_base_ = "./policynet_ade20k.py"
model = dict(backbone=dict(out_indices=(3,), feature_cls="getter"), in_channels=112)
