# Segmenter with ViT-T/16 and its mask transformer, on tokens, as ALGM's and CTS's authors have it:
# dropout 0.1 and no drop path in the decoder, norms with eps 1e-5, windows without overlap. mmseg's
# settings: ../../algm/ablations/mmseg_vit-s_ade20k.py.
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
        arch="t",
        img_size=(512, 512),
        patch_size=16,
        drop_path_rate=0.1,
        norm_cfg=dict(type="LN", eps=1e-5),
        final_norm=True,
        out_type="tokens",
    ),
    decode_head=dict(
        type="mmtokmerge.SegmenterMaskTransformerHead",
        in_channels=192,
        channels=192,
        embed_dims=192,
        num_layers=2,
        num_heads=3,
        num_classes=150,
        drop_rate=0.1,
        drop_path_rate=0.0,
        dropout_ratio=0.0,
        align_corners=False,
        loss_decode=dict(type="CrossEntropyLoss", use_sigmoid=False, loss_weight=1.0),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode="slide", crop_size=(512, 512), stride=(512, 512)),
)
