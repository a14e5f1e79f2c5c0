"""Keypoint annotations without MMPose: checking, converting and generating COCO's files."""
