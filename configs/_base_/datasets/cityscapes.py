# Cityscapes, 19 classes, 2048x1024 (width x height) images. Crops are (height, width), scales
# (width, height). The data's place: the environment variable MMTOKMERGE_CITYSCAPES, or
# data/cityscapes.
_base_ = ["./tta.py"]
dataset_type = "mmtokmerge.CityscapesDataset"
data_root = "{{$MMTOKMERGE_CITYSCAPES:data/cityscapes}}"
crop_size = (1024, 1024)
train_pipeline = [
    dict(type="mmtokmerge.LoadImage"),
    dict(type="mmtokmerge.LoadSegAnnotations"),
    dict(type="RandomResize", scale=(2048, 1024), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type="RandomCrop", crop_size=crop_size, cat_max_ratio=0.75),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PhotoMetricDistortion"),
    dict(type="PackSegInputs"),
]
test_pipeline = [
    # found by this name by mmseg's inferencers; the data set puts mmtokmerge.LoadImage in its place
    dict(type="LoadImageFromFile"),
    # before the label is loaded: predictions are compared at the label's own size
    dict(type="Resize", scale=(2048, 1024), keep_ratio=True),
    dict(type="mmtokmerge.LoadSegAnnotations"),
    dict(type="PackSegInputs"),
]
train_dataloader = dict(
    batch_size=4,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type="InfiniteSampler", shuffle=True),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        data_prefix=dict(img_path="leftImg8bit/train", seg_map_path="gtFine/train"),
        pipeline=train_pipeline,
    ),
)
auto_scale_lr = dict(enable=False, base_batch_size=4)
val_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        data_prefix=dict(img_path="leftImg8bit/val", seg_map_path="gtFine/val"),
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader

val_evaluator = dict(
    type="mmtokmerge.SmallClassIoUMetric",
    iou_metrics=["mIoU"],
    small_classes=["fence", "pole", "traffic light", "traffic sign"],
)
test_evaluator = val_evaluator
