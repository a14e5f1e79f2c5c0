_base_ = "./segmenter_vit-t_streets_none.py"
# About a third of the 16x32 tokens stay in the last layer; ALGM at 0.8468 leaves about a quarter.
tome = dict(type="mmtokmerge.ToMe", layer=list(range(1, 13)), num_merged=28, feature="K")
model = dict(backbone=dict(reducers=[tome], proportional=True))
