# Table 2's small policy network, which the paper does not name: EfficientNet-Lite0 up to its map of
# 112 channels at stride 16, four cells a superpatch, whose logits are averaged. timm's 'getter'
# drops the stages after it.
_base_ = "./sharing_lite0.py"
policy_network = dict(backbone=dict(out_indices=(3,), feature_cls="getter"), in_channels=112)
policy = dict(network=policy_network)
