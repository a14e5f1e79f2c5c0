# Table 2's large policy network, which the paper does not name: EfficientNet-Lite4.
_base_ = "./sharing_lite0.py"
policy_network = dict(backbone=dict(model_name="tf_efficientnet_lite4"), in_channels=448)
policy = dict(network=policy_network)
