# In proportion to a whole image's 690 patches as many as on ADE20K, for the baseline's weights;
# crops have 396 patches, so that 14 would be as many in training.
_base_ = "./segmenter_vit-t_camvid_none.py"
tome = dict(type="mmtokmerge.ToMe", layer=list(range(1, 13)), feature="K", num_merged=25)
model = dict(backbone=dict(reducers=[tome], proportional=True))
