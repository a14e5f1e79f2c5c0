_base_ = "./segformer_pose_b0.py"
model = dict(backbone=dict(arch="b1"), head=dict(in_channels=[64, 128, 320, 512]))
