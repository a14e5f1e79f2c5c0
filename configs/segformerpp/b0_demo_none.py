_base_ = [
    "../_base_/models/segformer_b0.py",
    "../_base_/datasets/demo.py",
    "../_base_/schedules/demo.py",
    "../_base_/default_runtime.py",
]
# From scratch on a CPU: no pretrained weights, and BatchNorm that needs no process group.
model = dict(
    data_preprocessor=dict(size=(256, 384)),
    decode_head=dict(norm_cfg=dict(type="BN")),
)
