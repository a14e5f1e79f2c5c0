_base_ = "./segmenter_vit-l_ade20k_none.py"
clap = dict(type="mmtokmerge.ConditionalLocalPooling", layer=1, threshold="auto")
gbm = dict(type="mmtokmerge.GlobalBipartiteMerging", layer=7, threshold="auto")
model = dict(backbone=dict(reducers=[clap, gbm]))
