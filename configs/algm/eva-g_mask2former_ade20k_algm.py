_base_ = "./eva-g_mask2former_ade20k_none.py"
# The first layer of each interaction with the adapter (ALGM, table 7).
clap = dict(type="mmtokmerge.ConditionalLocalPooling", layer=1, threshold="auto")
gbm = dict(type="mmtokmerge.GlobalBipartiteMerging", layer=[11, 21, 31], threshold="auto")
model = dict(backbone=dict(vit=dict(reducers=[clap, gbm])))
