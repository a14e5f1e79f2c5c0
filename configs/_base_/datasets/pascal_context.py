# Pascal-Context, 59 classes and the background, in mmseg's layout and Segmenter's scales: the
# shorter side is 520 pixels, crops are 480; mmseg's scales: pascal_context_mmseg.py. Crops are
# (height, width), scales (width, height). The data's place: the environment variable
# MMTOKMERGE_PCONTEXT, or data/VOCdevkit/VOC2010.
_base_ = ["./tta.py"]
dataset_type = "mmtokmerge.PascalContextDataset"
data_root = "{{$MMTOKMERGE_PCONTEXT:data/VOCdevkit/VOC2010}}"
crop_size = (480, 480)
train_pipeline = [
    dict(type="mmtokmerge.LoadImage"),
    dict(type="mmtokmerge.LoadSegAnnotations"),
    dict(type="RandomResize", scale=(4160, 520), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type="RandomCrop", crop_size=crop_size, cat_max_ratio=0.75),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PhotoMetricDistortion"),
    dict(type="PackSegInputs"),
]
test_pipeline = [
    # found by this name by mmseg's inferencers; the data set puts mmtokmerge.LoadImage in its place
    dict(type="LoadImageFromFile"),
    # before the label is loaded: predictions are compared at the label's own size
    dict(type="Resize", scale=(4160, 520), keep_ratio=True),
    dict(type="mmtokmerge.LoadSegAnnotations"),
    dict(type="PackSegInputs"),
]
data_prefix = dict(img_path="JPEGImages", seg_map_path="SegmentationClassContext")
train_dataloader = dict(
    batch_size=16,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type="InfiniteSampler", shuffle=True),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        data_prefix=data_prefix,
        ann_file="ImageSets/SegmentationContext/train.txt",
        pipeline=train_pipeline,
    ),
)
auto_scale_lr = dict(enable=False, base_batch_size=16)
val_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        data_prefix=data_prefix,
        ann_file="ImageSets/SegmentationContext/val.txt",
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader

val_evaluator = dict(
    type="mmtokmerge.SmallClassIoUMetric",
    iou_metrics=["mIoU"],
    small_classes=["fence", "light", "sign"],
)
test_evaluator = val_evaluator
