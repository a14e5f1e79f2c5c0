_base_ = [
    "../_base_/models/segformer_b0.py",
    "../_base_/datasets/streets.py",
    "../_base_/schedules/streets_cpu.py",
    "../_base_/default_runtime.py",
]
# From scratch: no pretrained weights, BatchNorm that needs no process group, no drop path, and
# weights that make up for how few pixels the small classes have.
model = dict(
    data_preprocessor=dict(size=(512, 1024)),
    backbone=dict(drop_path_rate=0.0),
    decode_head=dict(
        norm_cfg=dict(type="BN"),
        loss_decode=dict(
            # fence, pole, traffic light and traffic sign stand at 4 to 7
            class_weight=[1.0] * 4 + [2.0] * 4 + [1.0] * 3 + [1.5, 1.5] + [1.0] * 5 + [1.5],
        ),
    ),
)
default_hooks = dict(checkpoint=dict(interval=100))
