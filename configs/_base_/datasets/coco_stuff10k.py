# COCO-Stuff-10K, 171 classes, in mmseg's layout and scales. Crops are (height, width), scales
# (width, height). The data's place: the environment variable MMTOKMERGE_COCOSTUFF10K, or
# data/coco_stuff10k.
_base_ = ["./tta.py"]
dataset_type = "mmtokmerge.COCOStuffDataset"
data_root = "{{$MMTOKMERGE_COCOSTUFF10K:data/coco_stuff10k}}"
crop_size = (512, 512)
train_pipeline = [
    dict(type="mmtokmerge.LoadImage"),
    dict(type="mmtokmerge.LoadSegAnnotations"),
    dict(type="RandomResize", scale=(2048, 512), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type="RandomCrop", crop_size=crop_size, cat_max_ratio=0.75),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PhotoMetricDistortion"),
    dict(type="PackSegInputs"),
]
test_pipeline = [
    # found by this name by mmseg's inferencers; the data set puts mmtokmerge.LoadImage in its place
    dict(type="LoadImageFromFile"),
    # before the label is loaded: predictions are compared at the label's own size
    dict(type="Resize", scale=(2048, 512), keep_ratio=True),
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
        # label 0 is "unlabeled"
        reduce_zero_label=True,
        data_prefix=dict(img_path="images/train2014", seg_map_path="annotations/train2014"),
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
        data_prefix=dict(img_path="images/test2014", seg_map_path="annotations/test2014"),
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader

val_evaluator = dict(
    type="mmtokmerge.SmallClassIoUMetric",
    iou_metrics=["mIoU"],
    small_classes=["fence", "traffic light", "stop sign"],
)
test_evaluator = val_evaluator
