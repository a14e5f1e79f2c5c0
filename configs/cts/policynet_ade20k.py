# CTS, section 4.3: the policy network for ADE20K's networks with crops of 512. S is 103 of
# their 256 superpatches.
_base_ = [
    "../_base_/models/sharing_lite0.py",
    "../_base_/datasets/ade20k_512.py",
    "../_base_/schedules/policynet_50k.py",
    "../_base_/default_runtime.py",
]
# The authors' augmentation: images at 512x512 whatever their shape, and flipped; tested so too, so
# that precision is that of S = 103 of 256 superpatches, as in the paper. Cells on the image's edge
# that hold one class and ignored pixels are left out of loss and metric; inner ones count as "do
# not share".
targets = dict(type="mmtokmerge.GenerateSharingTargets", border="edge")
whole = dict(type="Resize", scale=(512, 512), keep_ratio=False)
train_pipeline = [
    *_base_.train_pipeline[:2],
    whole,
    dict(type="RandomFlip", prob=0.5),
    targets,
    _base_.train_pipeline[-1],
]
test_pipeline = [
    _base_.test_pipeline[0],
    dict(type="mmtokmerge.LoadSegAnnotations"),
    # after the label, to resize it too: superpatches are compared, not pixels of the file
    whole,
    targets,
    dict(type="PackSegInputs"),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(_delete_=True, type="mmtokmerge.SharingPrecision", num_shared=103 / 256)
test_evaluator = val_evaluator

model = dict(
    _base_.policy_network,
    data_preprocessor=dict(_base_.policy_network.data_preprocessor, size=(512, 512)),
)
default_hooks = dict(checkpoint=dict(save_best="precision"))
