# ADE20K, 150 classes. Crops are (height, width), scales (width, height). The data's place: the
# environment variable MMTOKMERGE_ADE20K, or data/ade/ADEChallengeData2016.
_base_ = ["./tta.py"]
dataset_type = "mmtokmerge.ADE20KDataset"
data_root = "{{$MMTOKMERGE_ADE20K:data/ade/ADEChallengeData2016}}"
crop_size = (640, 640)
train_pipeline = [
    dict(type="mmtokmerge.LoadImage"),
    dict(type="mmtokmerge.LoadSegAnnotations"),
    dict(type="RandomResize", scale=(2048, 640), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type="RandomCrop", crop_size=crop_size, cat_max_ratio=0.75),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PhotoMetricDistortion"),
    dict(type="PackSegInputs"),
]
test_pipeline = [
    # found by this name by mmseg's inferencers; the data set puts mmtokmerge.LoadImage in its place
    dict(type="LoadImageFromFile"),
    # before the label is loaded: predictions are compared at the label's own size
    dict(type="Resize", scale=(2048, 640), keep_ratio=True),
    dict(type="mmtokmerge.LoadSegAnnotations"),
    dict(type="PackSegInputs"),
]
train_dataloader = dict(
    batch_size=8,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type="InfiniteSampler", shuffle=True),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        reduce_zero_label=True,
        data_prefix=dict(img_path="images/training", seg_map_path="annotations/training"),
        pipeline=train_pipeline,
    ),
)
auto_scale_lr = dict(enable=False, base_batch_size=8)
val_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        reduce_zero_label=True,
        data_prefix=dict(img_path="images/validation", seg_map_path="annotations/validation"),
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader

val_evaluator = dict(
    type="mmtokmerge.SmallClassIoUMetric",
    iou_metrics=["mIoU"],
    small_classes=["fence", "pole", "traffic light", "signboard"],
)
test_evaluator = val_evaluator
