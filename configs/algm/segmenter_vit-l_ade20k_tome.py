# As many tokens a layer as bring the operations to those of the paper's table.
_base_ = "./segmenter_vit-l_ade20k_none.py"
tome = dict(type="mmtokmerge.ToMe", layer=list(range(1, 25)), feature="K", num_merged=29)
model = dict(backbone=dict(reducers=[tome], proportional=True))
