_base_ = [
    "../_base_/models/segformer_pose_b0.py",
    "../_base_/datasets/stick_figures.py",
    "../_base_/schedules/pose_demo.py",
    "../_base_/default_runtime_pose.py",
]
# From scratch on a CPU: no pretrained weights.
model = dict(head=dict(out_channels=20, decoder=_base_.codec))
default_hooks = dict(checkpoint=dict(interval=8))
