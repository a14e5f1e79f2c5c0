# Pascal-Context as pascal_context.py has it, the background ignored: 59 classes.
_base_ = "./pascal_context.py"
dataset_type = "mmtokmerge.PascalContextDataset59"
train_dataloader = dict(dataset=dict(type=dataset_type))
val_dataloader = dict(dataset=dict(type=dataset_type))
test_dataloader = val_dataloader
