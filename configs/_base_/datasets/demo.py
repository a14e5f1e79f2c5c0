# The generated streets of tools/dataset_converters/demo_streets.py: Cityscapes' layout and classes,
# 1024x512 (width x height). The data's place: the environment variable MMTOKMERGE_DEMO, or
# data/demo_streets. Crops are (height, width), scales (width, height).
_base_ = ["./tta.py"]
dataset_type = "mmtokmerge.CityscapesDataset"
data_root = "{{$MMTOKMERGE_DEMO:data/demo_streets}}"
crop_size = (256, 384)
train_pipeline = [
    dict(type="mmtokmerge.LoadImage"),
    dict(type="mmtokmerge.LoadSegAnnotations"),
    dict(type="RandomResize", scale=(1024, 512), ratio_range=(0.75, 1.25), keep_ratio=True),
    dict(type="RandomCrop", crop_size=crop_size, cat_max_ratio=0.75),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackSegInputs"),
]
test_pipeline = [
    # found by this name by mmseg's inferencers; the data set puts mmtokmerge.LoadImage in its place
    dict(type="LoadImageFromFile"),
    dict(type="mmtokmerge.LoadSegAnnotations"),
    dict(type="PackSegInputs"),
]
train_dataloader = dict(
    batch_size=2,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type="InfiniteSampler", shuffle=True),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        data_prefix=dict(img_path="leftImg8bit/train", seg_map_path="gtFine/train"),
        pipeline=train_pipeline,
    ),
)
auto_scale_lr = dict(enable=False, base_batch_size=2)
val_dataloader = dict(
    batch_size=1,
    num_workers=2,
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
