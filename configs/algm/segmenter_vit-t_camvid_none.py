_base_ = [
    "../_base_/models/segmenter_vit-t.py",
    "../_base_/datasets/camvid_vit.py",
    "../_base_/schedules/camvid_vit.py",
    "../_base_/default_runtime.py",
]
# From scratch on a CPU: no pretrained weights, no drop path, crops of 18x22 patches, whole images
# of 23x30 in the test. A class weighs the square root of the median frequency over its own.
model = dict(
    data_preprocessor=dict(size=(288, 352)),
    backbone=dict(img_size=(288, 352), drop_path_rate=0.0, norm_cfg=dict(eps=1e-6)),
    decode_head=dict(
        num_classes=11,
        drop_rate=0.0,
        loss_decode=dict(
            class_weight=[0.53, 0.45, 2.2, 0.39, 1.0, 0.65, 2.0, 1.4, 0.89, 2.5, 3.0],
        ),
    ),
    test_cfg=dict(_delete_=True, mode="whole"),
)
