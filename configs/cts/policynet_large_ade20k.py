# Table 2: PolicyNet (large), of configs/_base_/models/sharing_large.py.
_base_ = "./policynet_ade20k.py"
model = dict(backbone=dict(model_name="tf_efficientnet_lite4"), in_channels=448)
