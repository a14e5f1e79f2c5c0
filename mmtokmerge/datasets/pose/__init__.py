"""Registered keypoint data sets in COCO's format; importing this module needs MMPose."""

from mmtokmerge.datasets.pose.checked import CheckedKeypoints
from mmtokmerge.datasets.pose.coco import CocoKeypoints
from mmtokmerge.datasets.pose.jbd import JBDDataset
from mmtokmerge.datasets.pose.mouse import MouseKeypoints
from mmtokmerge.datasets.pose.sticks import StickFigures

__all__ = ["CheckedKeypoints", "CocoKeypoints", "JBDDataset", "MouseKeypoints", "StickFigures"]
