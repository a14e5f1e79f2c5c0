# CTS, section 4.3: the policy network for Pascal-Context. Images are whole in the test: S is 90 of
# a crop's 225 superpatches, and of any image's the same share.
_base_ = [
    "../_base_/models/sharing_lite0.py",
    "../_base_/datasets/pascal_context.py",
    "../_base_/schedules/policynet_50k.py",
    "../_base_/default_runtime.py",
]
targets = dict(type="mmtokmerge.GenerateSharingTargets")
train_pipeline = [
    *_base_.train_pipeline[:-1],
    # targets are smaller than images: nothing may be left to pad for the data preprocessor
    dict(type="Pad", size=(480, 480), pad_val=dict(img=127, seg=255)),
    targets,
    _base_.train_pipeline[-1],
]
test_pipeline = [
    _base_.test_pipeline[0],
    dict(type="mmtokmerge.LoadSegAnnotations"),
    # after the label, to resize it too: superpatches are compared, not pixels of the file
    _base_.test_pipeline[1],
    targets,
    dict(type="PackSegInputs"),
]
train_dataloader = dict(batch_size=8, dataset=dict(pipeline=train_pipeline))
auto_scale_lr = dict(enable=False, base_batch_size=8)
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(_delete_=True, type="mmtokmerge.SharingPrecision", num_shared=90 / 225)
test_evaluator = val_evaluator

model = dict(
    _base_.policy_network,
    data_preprocessor=dict(_base_.policy_network.data_preprocessor, size=(480, 480)),
)
default_hooks = dict(checkpoint=dict(save_best="precision"))
