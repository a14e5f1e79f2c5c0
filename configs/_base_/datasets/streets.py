# Generated streets without end for training, tested on the set of the demo (see demo.py): scenes of
# 512x1024 to 1024x2048 pixels (height x width), of which crops of 512x1024 are taken.
_base_ = ["./demo.py"]
crop_size = (512, 1024)
train_pipeline = [
    dict(type="RandomCrop", crop_size=crop_size, cat_max_ratio=0.75),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackSegInputs"),
]
train_dataloader = dict(
    batch_size=1,
    dataset=dict(
        _delete_=True,
        type="mmtokmerge.EndlessStreets",
        sizes=[(512, 1024), (640, 1280), (768, 1536), (1024, 2048)],
        seed=1,
        pipeline=train_pipeline,
    ),
)
auto_scale_lr = dict(enable=False, base_batch_size=1)
