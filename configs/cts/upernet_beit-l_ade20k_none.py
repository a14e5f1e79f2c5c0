# Table 5, tested at several scales (tools/test.py --tta). The weights:
# beit_large_patch16_224_pt22k_ft22k.pth, through mmseg's tools/model_converters/beit2mmseg.py.
_base_ = [
    "../_base_/models/upernet_beit-l.py",
    "../_base_/datasets/ade20k.py",
    "../_base_/schedules/beit-l_320k.py",
    "../_base_/default_runtime.py",
]
checkpoint = "pretrain/beit_large_patch16_224_pt22k_ft22k.pth"
model = dict(
    data_preprocessor=dict(size=(640, 640)),
    backbone=dict(init_cfg=dict(type="Pretrained", checkpoint=checkpoint)),
)
