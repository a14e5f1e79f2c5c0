_base_ = [
    "../_base_/models/mask2former_eva-g_adapter.py",
    "../_base_/datasets/camvid_vit.py",
    "../_base_/schedules/camvid_vit.py",
    "../_base_/default_runtime.py",
]
# EVA's system at the size of ViT-T, from scratch on a CPU: crops of 18x22 patches, three
# interactions' worth of everything smaller, BatchNorm that needs no process group.
model = dict(
    data_preprocessor=dict(size=(288, 352)),
    backbone=dict(
        vit=dict(
            arch="t",
            img_size=(288, 352),
            mlp_ratio=4,
            drop_path_rate=0.0,
            init_values=0.1,
            with_cp=False,
        ),
        stem_channels=16,
        num_heads=6,
        value_ratio=1.0,
        drop_path_rate=0.0,
        norm_cfg=dict(type="BN"),
        with_cp=False,
    ),
    decode_head=dict(
        in_channels=[192, 192, 192, 192],
        channels=128,
        num_classes=11,
        num_queries=30,
        num_heads=4,
        feedforward_channels=256,
        encoder_layers=2,
        decoder_layers=3,
        num_points=2048,
    ),
    test_cfg=dict(_delete_=True, mode="whole"),
)
