# CamVid, 11 classes, 480x360 (width x height) images, tested without resizing. Crops are (height,
# width), scales (width, height). The data's place: the environment variable MMTOKMERGE_CAMVID, or
# data/camvid.
_base_ = ["./tta.py"]
dataset_type = "mmtokmerge.CamVidDataset"
data_root = "{{$MMTOKMERGE_CAMVID:data/camvid}}"
crop_size = (288, 352)
train_pipeline = [
    dict(type="mmtokmerge.LoadImage"),
    dict(type="mmtokmerge.LoadSegAnnotations"),
    dict(type="RandomResize", scale=(480, 360), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type="RandomCrop", crop_size=crop_size, cat_max_ratio=0.75),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PhotoMetricDistortion"),
    dict(type="PackSegInputs"),
]
test_pipeline = [
    # found by this name by mmseg's inferencers; the data set puts mmtokmerge.LoadImage in its place
    dict(type="LoadImageFromFile"),
    dict(type="mmtokmerge.LoadSegAnnotations"),
    dict(type="PackSegInputs"),
]
train_dataloader = dict(
    batch_size=4,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type="InfiniteSampler", shuffle=True),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        data_prefix=dict(img_path="images/train", seg_map_path="annotations/train"),
        pipeline=train_pipeline,
    ),
)
auto_scale_lr = dict(enable=False, base_batch_size=4)
val_dataloader = dict(
    batch_size=1,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        data_prefix=dict(img_path="images/val", seg_map_path="annotations/val"),
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader

val_evaluator = dict(
    type="mmtokmerge.SmallClassIoUMetric",
    iou_metrics=["mIoU"],
    small_classes=["Fence", "Pole", "SignSymbol"],
)
test_evaluator = val_evaluator
