# Table 4: the linear decoder.
_base_ = "./segmenter_vit-b_ade20k_none.py"
model = dict(
    decode_head=dict(
        _delete_=True,
        type="mmtokmerge.SegmenterLinearHead",
        in_channels=768,
        num_classes=150,
        dropout_ratio=0.0,
        align_corners=False,
        loss_decode=dict(type="CrossEntropyLoss", use_sigmoid=False, loss_weight=1.0),
    ),
)
