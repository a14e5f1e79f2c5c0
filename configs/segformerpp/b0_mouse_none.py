_base_ = [
    "../_base_/models/segformer_pose_b0.py",
    "../_base_/datasets/mouse_keypoints.py",
    "../_base_/schedules/pose_mouse_cpu.py",
    "../_base_/default_runtime_pose.py",
]
# From scratch on a CPU: no pretrained weights.
model = dict(head=dict(out_channels=4, decoder=_base_.codec))
default_hooks = dict(checkpoint=dict(interval=20, save_best="PCK@0.02"))
