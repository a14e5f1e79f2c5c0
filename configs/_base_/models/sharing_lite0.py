# The policy network of CTS, section 4.3: EfficientNet-Lite0, whose last map of 320 channels has one
# cell of 32 pixels a superpatch. It normalises images by itself, whatever the network that it
# serves does. `policy` is for `model.backbone.sharing`; set its checkpoint to trained weights.
# It is trained from ImageNet's weights, which timm publishes; pretrained=False trains from scratch.
policy_network = dict(
    type="mmtokmerge.PolicyNetwork",
    backbone=dict(
        type="mmseg.TIMMBackbone",
        model_name="efficientnet_lite0",
        features_only=True,
        pretrained=False,
        out_indices=(4,),
    ),
    in_channels=320,
    pretrained=True,
    data_preprocessor=dict(
        type="mmseg.SegDataPreProcessor",
        mean=[127.5, 127.5, 127.5],
        std=[127.5, 127.5, 127.5],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
    ),
)
policy = dict(type="mmtokmerge.NetworkPolicy", network=policy_network, checkpoint=None)
