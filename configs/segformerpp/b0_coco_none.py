_base_ = [
    "../_base_/models/segformer_pose_b0.py",
    "../_base_/datasets/coco_keypoints.py",
    "../_base_/schedules/pose_210e.py",
    "../_base_/default_runtime_pose.py",
]
checkpoint = "https://download.openmmlab.com/mmsegmentation/v0.5/pretrain/segformer/mit_b0_20220624-7e0fe6dd.pth"
model = dict(
    backbone=dict(init_cfg=dict(type="Pretrained", checkpoint=checkpoint)),
    head=dict(out_channels=17, decoder=_base_.codec),
)
default_hooks = dict(checkpoint=dict(save_best="coco/AP"))
