# Generated streets without end for plain ViTs: crops of 256x512, 16x32 patches of 16, from scenes
# of 384x768 and 512x1024 pixels (height x width), tested on the set of the demo.
_base_ = ["./streets.py"]
crop_size = (256, 512)
train_pipeline = [
    dict(type="RandomCrop", crop_size=crop_size, cat_max_ratio=0.75),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackSegInputs"),
]
train_dataloader = dict(
    batch_size=6,
    dataset=dict(sizes=[(384, 768), (512, 1024)], pipeline=train_pipeline),
)
auto_scale_lr = dict(enable=False, base_batch_size=6)
