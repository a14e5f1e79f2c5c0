# Beyond the paper: what shares a token by CTS goes on to be merged by ALGM.
_base_ = "./segmenter_vit-t_streets_cts.py"
clap = dict(type="mmtokmerge.ConditionalLocalPooling", layer=1, threshold="auto")
gbm = dict(type="mmtokmerge.GlobalBipartiteMerging", layer=5, threshold="auto")
model = dict(backbone=dict(reducers=[clap, gbm]))
