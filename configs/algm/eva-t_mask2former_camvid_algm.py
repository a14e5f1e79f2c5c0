_base_ = "./eva-t_mask2former_camvid_none.py"
# The first layer of each interaction with the adapter, as in EVA-G.
clap = dict(type="mmtokmerge.ConditionalLocalPooling", layer=1, threshold="auto")
gbm = dict(type="mmtokmerge.GlobalBipartiteMerging", layer=[4, 7, 10], threshold="auto")
model = dict(backbone=dict(vit=dict(reducers=[clap, gbm])))
