# Segmenter with BEiT-B/16 (CTS, table 3); normalisation and layer scale as in mmseg's BEiT.
_base_ = "./segmenter_vit-b.py"
model = dict(
    data_preprocessor=dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375]),
    backbone=dict(type="mmtokmerge.BEiT", init_values=0.1),
)
