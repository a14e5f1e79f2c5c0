# Segmenter with BEiT-B/16 (CTS, table 3), normalised as the authors do, by 127.5; layer scale as in
# mmseg's BEiT.
_base_ = "./segmenter_vit-b.py"
model = dict(
    backbone=dict(type="mmtokmerge.BEiT", init_values=0.1),
)
