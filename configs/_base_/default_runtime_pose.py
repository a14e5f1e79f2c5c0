# As default_runtime.py, for MMPose's scope and schedules counted in epochs.
_base_ = ["./default_runtime.py"]
default_scope = "mmpose"
visualizer = dict(type="PoseLocalVisualizer")
log_processor = dict(by_epoch=True)
tta_model = None

default_hooks = dict(
    logger=dict(log_metric_by_epoch=True),
    checkpoint=dict(by_epoch=True, interval=10, save_best="PCK@0.05", rule="greater"),
    visualization=dict(_delete_=True, type="mmtokmerge.PoseMergeVisualizationHook"),
)
