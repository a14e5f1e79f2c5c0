# Pascal-Context as pascal_context_mmseg.py has it, the background ignored: 59 classes.
_base_ = "./pascal_context_mmseg.py"
dataset_type = "mmtokmerge.PascalContextDataset59"
train_dataloader = dict(dataset=dict(type=dataset_type))
val_dataloader = dict(dataset=dict(type=dataset_type))
test_dataloader = val_dataloader
