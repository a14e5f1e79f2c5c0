_base_ = [
    "../_base_/models/segformer_pose_b4.py",
    "../_base_/datasets/jbd.py",
    "../_base_/schedules/pose_210e.py",
    "../_base_/default_runtime_pose.py",
]
checkpoint = "https://download.openmmlab.com/mmsegmentation/v0.5/pretrain/segformer/mit_b4_20220624-d588d980.pth"
model = dict(
    backbone=dict(init_cfg=dict(type="Pretrained", checkpoint=checkpoint)),
    head=dict(out_channels=20, decoder=_base_.codec),
)
