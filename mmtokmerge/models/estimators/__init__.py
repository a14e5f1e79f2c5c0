"""Pose estimators that mmpose does not have; each module needs MMPose and is imported by name."""
