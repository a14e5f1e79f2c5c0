# UPerNet with BEiT-L/16 on crops of 640, as in mmseg's configs.
_base_ = "./upernet_vit-b.py"
model = dict(
    backbone=dict(
        type="mmtokmerge.BEiT",
        arch="l",
        img_size=(640, 640),
        out_indices=(7, 11, 15, 23),
        init_values=1e-6,
        drop_path_rate=0.2,
    ),
    neck=dict(_delete_=True, type="Feature2Pyramid", embed_dim=1024, rescales=[4, 2, 1, 0.5]),
    decode_head=dict(in_channels=[1024, 1024, 1024, 1024], channels=1024),
    auxiliary_head=dict(in_channels=1024, in_index=2),
    test_cfg=dict(mode="slide", crop_size=(640, 640), stride=(426, 426)),
)
