_base_ = [
    "../_base_/models/segmenter_vit-t.py",
    "../_base_/datasets/streets_vit.py",
    "../_base_/schedules/streets_vit.py",
    "../_base_/default_runtime.py",
]
# From scratch on a CPU: no pretrained weights, no drop path, windows of 16x32 patches, and weights
# that make up for how few pixels the small classes have.
model = dict(
    data_preprocessor=dict(size=(256, 512)),
    backbone=dict(img_size=(256, 512), drop_path_rate=0.0, norm_cfg=dict(eps=1e-6)),
    decode_head=dict(
        num_classes=19,
        drop_rate=0.0,
        loss_decode=dict(
            # fence, pole, traffic light and traffic sign stand at 4 to 7
            class_weight=[1.0] * 4 + [2.0] * 4 + [1.0] * 3 + [1.5, 1.5] + [1.0] * 5 + [1.5],
        ),
    ),
    test_cfg=dict(_delete_=True, mode="slide", crop_size=(256, 512), stride=(256, 512)),
)
default_hooks = dict(checkpoint=dict(interval=100, max_keep_ckpts=2))
