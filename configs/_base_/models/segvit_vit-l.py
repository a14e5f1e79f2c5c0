# SegViT with ViT-L/16: attention-to-mask on the tokens of three depths, each a third further. With
# 1,024 channels the decoder's operations come nearest to what the paper's totals leave for it.
model = dict(
    type="EncoderDecoder",
    data_preprocessor=dict(
        type="SegDataPreProcessor",
        mean=[127.5, 127.5, 127.5],
        std=[127.5, 127.5, 127.5],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
    ),
    backbone=dict(
        type="mmtokmerge.VisionTransformer",
        arch="l",
        img_size=(512, 512),
        patch_size=16,
        out_indices=(7, 15, 23),
        drop_path_rate=0.1,
        norm_cfg=dict(type="LN", eps=1e-6),
        out_type="tokens",
    ),
    decode_head=dict(
        type="mmtokmerge.ATMHead",
        in_channels=[1024, 1024, 1024],
        in_index=[0, 1, 2],
        channels=1024,
        num_heads=16,
        num_classes=150,
        align_corners=False,
    ),
    train_cfg=dict(),
    test_cfg=dict(mode="slide", crop_size=(512, 512), stride=(480, 480)),
)
