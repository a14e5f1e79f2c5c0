_base_ = "./segformer_pose_b1.py"
model = dict(backbone=dict(arch="b5"))
