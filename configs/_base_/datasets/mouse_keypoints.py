# Mice seen from above, 4 keypoints, in boxes of 256x256. The data's place: the environment variable
# MMTOKMERGE_MOUSE, or data/mouse_keypoints.
dataset_type = "mmtokmerge.MouseKeypoints"
data_mode = "topdown"
data_root = "{{$MMTOKMERGE_MOUSE:data/mouse_keypoints}}"
codec = dict(
    type="MSRAHeatmap", input_size=(256, 256), heatmap_size=(64, 64), sigma=2, unbiased=True
)

train_pipeline = [
    dict(type="mmtokmerge.LoadImage"),
    dict(type="GetBBoxCenterScale"),
    dict(type="RandomFlip", direction="horizontal"),
    dict(type="RandomBBoxTransform"),
    dict(type="TopdownAffine", input_size=codec["input_size"]),
    dict(type="GenerateTarget", encoder=codec),
    dict(type="PackPoseInputs"),
]
test_pipeline = [
    dict(type="mmtokmerge.LoadImage"),
    dict(type="GetBBoxCenterScale"),
    dict(type="TopdownAffine", input_size=codec["input_size"]),
    dict(type="PackPoseInputs"),
]
train_dataloader = dict(
    batch_size=8,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        data_mode=data_mode,
        ann_file="annotations/train.json",
        data_prefix=dict(img="images"),
        pipeline=train_pipeline,
    ),
)
auto_scale_lr = dict(enable=False, base_batch_size=8)
val_dataloader = dict(
    batch_size=8,
    num_workers=2,
    persistent_workers=True,
    drop_last=False,
    sampler=dict(type="DefaultSampler", shuffle=False, round_up=False),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        data_mode=data_mode,
        ann_file="annotations/val.json",
        data_prefix=dict(img="images"),
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader

val_evaluator = dict(type="mmtokmerge.BoxPCK", thresholds=[0.1, 0.05, 0.02])
test_evaluator = val_evaluator
