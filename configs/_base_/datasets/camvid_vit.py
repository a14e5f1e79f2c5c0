# CamVid for a short training from scratch: as camvid.py, at scales nearer to those of the test.
_base_ = "./camvid.py"
train_pipeline = [
    dict(type="mmtokmerge.LoadImage"),
    dict(type="mmtokmerge.LoadSegAnnotations"),
    dict(type="RandomResize", scale=(480, 360), ratio_range=(0.75, 1.5), keep_ratio=True),
    dict(type="RandomCrop", crop_size=_base_.crop_size, cat_max_ratio=0.75),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PhotoMetricDistortion"),
    dict(type="PackSegInputs"),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
