# Cityscapes as cityscapes.py has it, in crops of 768 pixels and batches of 8.
_base_ = "./cityscapes.py"
crop_size = (768, 768)
train_pipeline = [
    dict(type="mmtokmerge.LoadImage"),
    dict(type="mmtokmerge.LoadSegAnnotations"),
    dict(type="RandomResize", scale=(2048, 1024), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type="RandomCrop", crop_size=crop_size, cat_max_ratio=0.75),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PhotoMetricDistortion"),
    dict(type="PackSegInputs"),
]
train_dataloader = dict(batch_size=8, dataset=dict(pipeline=train_pipeline))
auto_scale_lr = dict(enable=False, base_batch_size=8)
