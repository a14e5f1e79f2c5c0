"""Registered heads for pose; importing this module needs MMPose."""

from .segformer_pose_head import SegformerPoseHead

__all__ = ["SegformerPoseHead"]
