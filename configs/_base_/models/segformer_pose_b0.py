# SegFormer-B0 without merging, top-down: one box in, heatmaps out. A config sets the head's
# out_channels and decoder, which depend on the data. Losses and decoding are mmpose's.
model = dict(
    type="TopdownPoseEstimator",
    data_preprocessor=dict(
        type="PoseDataPreprocessor",
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
    ),
    backbone=dict(type="mmtokmerge.MiTPlusPlus", arch="b0", merging="none", drop_path_rate=0.1),
    head=dict(
        type="mmtokmerge.SegformerPoseHead",
        in_channels=[32, 64, 160, 256],
        channels=256,
        loss=dict(type="KeypointMSELoss", use_target_weight=True),
    ),
    test_cfg=dict(flip_test=True, flip_mode="heatmap", shift_heatmap=True),
)
