# Jumping Broadcast Dataset, 20 keypoints of an athlete, in boxes of 480x640 (width x height), in
# the files that tools/dataset_converters/jbd.py writes. The data's place: the environment variable
# MMTOKMERGE_JBD, or data/jbd.
dataset_type = "mmtokmerge.JBDDataset"
data_mode = "topdown"
data_root = "{{$MMTOKMERGE_JBD:data/jbd}}"
codec = dict(type="MSRAHeatmap", input_size=(480, 640), heatmap_size=(120, 160), sigma=3)

train_pipeline = [
    dict(type="mmtokmerge.LoadImage"),
    dict(type="GetBBoxCenterScale"),
    dict(type="RandomFlip", direction="horizontal"),
    dict(type="RandomHalfBody"),
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
    batch_size=16,
    num_workers=4,
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
auto_scale_lr = dict(enable=False, base_batch_size=16)
val_dataloader = dict(
    batch_size=16,
    num_workers=4,
    persistent_workers=True,
    drop_last=False,
    sampler=dict(type="DefaultSampler", shuffle=False, round_up=False),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        data_mode=data_mode,
        ann_file="annotations/val.json",
        data_prefix=dict(img="images"),
        # or a detector's boxes, in COCO's format of detections
        bbox_file=None,
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = dict(
    batch_size=16,
    num_workers=4,
    persistent_workers=True,
    drop_last=False,
    sampler=dict(type="DefaultSampler", shuffle=False, round_up=False),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        data_mode=data_mode,
        ann_file="annotations/test.json",
        data_prefix=dict(img="images"),
        bbox_file=None,
        test_mode=True,
        pipeline=test_pipeline,
    ),
)

val_evaluator = dict(type="mmtokmerge.BoxPCK", thresholds=[0.1, 0.05])
test_evaluator = val_evaluator
