# SETR-MLA with ViT-L/16, as in mmseg's configs for ADE20K: features of four depths, aggregated.
_base_ = "./setr_vit-l.py"
model = dict(
    backbone=dict(out_indices=(5, 11, 17, 23), with_cls_token=False),
    neck=dict(
        type="MLANeck",
        in_channels=[1024, 1024, 1024, 1024],
        out_channels=256,
        norm_cfg=dict(type="SyncBN", requires_grad=True),
        act_cfg=dict(type="ReLU"),
    ),
    decode_head=dict(
        _delete_=True,
        type="SETRMLAHead",
        in_channels=(256, 256, 256, 256),
        in_index=(0, 1, 2, 3),
        channels=512,
        mla_channels=128,
        num_classes=150,
        dropout_ratio=0,
        norm_cfg=dict(type="SyncBN", requires_grad=True),
        align_corners=False,
        loss_decode=dict(type="CrossEntropyLoss", use_sigmoid=False, loss_weight=1.0),
    ),
    auxiliary_head=[
        dict(
            type="FCNHead",
            in_channels=256,
            in_index=index,
            channels=256,
            num_convs=0,
            kernel_size=1,
            concat_input=False,
            num_classes=150,
            dropout_ratio=0,
            norm_cfg=dict(type="SyncBN", requires_grad=True),
            act_cfg=dict(type="ReLU"),
            align_corners=False,
            loss_decode=dict(type="CrossEntropyLoss", use_sigmoid=False, loss_weight=0.4),
        )
        for index in range(4)
    ],
)
