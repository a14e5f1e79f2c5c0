# SETR-Naive with ViT-L/16, as in mmseg's configs for ADE20K, on the unmerged grid. The paper's SETR
# is this one: its 363 GFLOPs at 512x512 leave none for the heads of SETR-PUP or SETR-MLA.
model = dict(
    type="EncoderDecoder",
    data_preprocessor=dict(
        type="SegDataPreProcessor",
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
    ),
    backbone=dict(
        type="mmtokmerge.VisionTransformer",
        arch="l",
        img_size=(512, 512),
        patch_size=16,
        out_indices=(9, 14, 19, 23),
        norm_cfg=dict(type="LN", eps=1e-6),
        interpolate_mode="bilinear",
        out_type="map",
    ),
    decode_head=dict(
        type="SETRUPHead",
        in_channels=1024,
        in_index=3,
        channels=256,
        num_convs=1,
        up_scale=4,
        kernel_size=1,
        num_classes=150,
        dropout_ratio=0,
        norm_cfg=dict(type="SyncBN", requires_grad=True),
        align_corners=False,
        loss_decode=dict(type="CrossEntropyLoss", use_sigmoid=False, loss_weight=1.0),
    ),
    auxiliary_head=[
        dict(
            type="SETRUPHead",
            in_channels=1024,
            in_index=index,
            channels=256,
            num_convs=2,
            up_scale=4,
            kernel_size=1,
            num_classes=150,
            dropout_ratio=0,
            norm_cfg=dict(type="SyncBN", requires_grad=True),
            act_cfg=dict(type="ReLU"),
            align_corners=False,
            loss_decode=dict(type="CrossEntropyLoss", use_sigmoid=False, loss_weight=0.4),
        )
        for index in range(3)
    ],
    train_cfg=dict(),
    test_cfg=dict(mode="slide", crop_size=(512, 512), stride=(341, 341)),
)
