# Pascal-Context as pascal_context.py has it, in mmseg's scales: the longer side is 520 pixels.
_base_ = "./pascal_context.py"
train_pipeline = list(_base_.train_pipeline)
train_pipeline[2] = dict(train_pipeline[2], scale=(520, 520))
test_pipeline = list(_base_.test_pipeline)
test_pipeline[1] = dict(test_pipeline[1], scale=(520, 520))
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
