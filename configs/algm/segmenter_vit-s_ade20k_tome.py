# As many tokens a layer as bring the operations to those of the paper's table.
_base_ = "./segmenter_vit-s_ade20k_none.py"
tome = dict(type="mmtokmerge.ToMe", layer=list(range(1, 13)), feature="K", num_merged=37)
model = dict(backbone=dict(reducers=[tome], proportional=True))
