_base_ = [
    "../_base_/models/segvit_vit-t.py",
    "../_base_/datasets/camvid_vit.py",
    "../_base_/schedules/camvid_vit.py",
    "../_base_/default_runtime.py",
]
# As segmenter_vit-t_camvid_none.py; the loss of a mask weighs small classes by itself.
model = dict(
    data_preprocessor=dict(size=(288, 352)),
    backbone=dict(img_size=(288, 352), drop_path_rate=0.0),
    decode_head=dict(num_classes=11, dropout_ratio=0.0),
    test_cfg=dict(_delete_=True, mode="whole"),
)
