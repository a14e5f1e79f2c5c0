# The paper has SegViT with ViT-L alone, GBM in the middle of its layers: so it stands here.
_base_ = "./segvit_vit-t_camvid_none.py"
clap = dict(type="mmtokmerge.ConditionalLocalPooling", layer=1, threshold="auto")
gbm = dict(type="mmtokmerge.GlobalBipartiteMerging", layer=6, threshold="auto")
model = dict(backbone=dict(reducers=[clap, gbm]))
