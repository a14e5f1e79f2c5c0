_base_ = [
    "../_base_/models/segformer_b0.py",
    "../_base_/datasets/camvid.py",
    "../_base_/schedules/camvid_cpu.py",
    "../_base_/default_runtime.py",
]
# From scratch on a CPU: no pretrained weights, and BatchNorm that needs no process group.
model = dict(
    data_preprocessor=dict(size=(288, 352)),
    decode_head=dict(num_classes=11, norm_cfg=dict(type="BN")),
)
