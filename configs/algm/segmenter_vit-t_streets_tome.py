_base_ = "./segmenter_vit-t_streets_none.py"
# As many tokens in the last layer as ALGM leaves at its threshold, about a third of 16x32.
tome = dict(type="mmtokmerge.ToMe", layer=list(range(1, 13)), num_merged=28, feature="K")
model = dict(backbone=dict(reducers=[tome], proportional=True))
