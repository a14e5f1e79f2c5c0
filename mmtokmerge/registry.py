"""Child registries of MMEngine's, scope ``mmtokmerge``: configs name our types ``mmtokmerge.X``.

Each registry knows the modules that register its types (``locations``) and imports them when it is
first asked, so a type is never "not in the registry" and ``import mmtokmerge`` stays light. Types
that need MMPose are imported only when one of them is asked for by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from mmengine.registry import DATA_SAMPLERS as MMENGINE_DATA_SAMPLERS
from mmengine.registry import DATASETS as MMENGINE_DATASETS
from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import METRICS as MMENGINE_METRICS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS as MMENGINE_OPTIM_WRAPPER_CONSTRUCTORS
from mmengine.registry import OPTIM_WRAPPERS as MMENGINE_OPTIM_WRAPPERS
from mmengine.registry import TRANSFORMS as MMENGINE_TRANSFORMS
from mmengine.registry import Registry

from mmtokmerge._mmpose_import import import_mmpose

SCOPE = "mmtokmerge"


class PoseRegistry(Registry):
    """A registry whose pose types, and MMPose with them, are imported when first asked for.

    Args:
        name: As for ``Registry``.
        pose_types: Name of each type that needs MMPose, and the module that registers it.
        **kwargs: As for ``Registry``.
    """

    def __init__(self, name: str, *, pose_types: Mapping[str, str], **kwargs: Any) -> None:
        super().__init__(name, **kwargs)
        self.pose_types = dict(pose_types)

    def get(self, key: str) -> Any:
        """The type of that name.

        Raises:
            ImportError: It needs MMPose, which cannot be imported.
        """
        name = key.removeprefix(f"{SCOPE}.") if isinstance(key, str) else key
        if name in self.pose_types and name not in self.module_dict:
            import_mmpose()
            import_module(self.pose_types[name])
        return super().get(key)


MODELS = PoseRegistry(
    "model",
    parent=MMENGINE_MODELS,
    scope=SCOPE,
    locations=["mmtokmerge.models"],
    pose_types={
        "ExportedPoseEstimator": "mmtokmerge.models.estimators.exported",
        "SegformerPoseHead": "mmtokmerge.models.heads.segformer_pose_head",
    },
)
DATASETS = PoseRegistry(
    "dataset",
    parent=MMENGINE_DATASETS,
    scope=SCOPE,
    locations=["mmtokmerge.datasets"],
    pose_types=dict.fromkeys(
        ("CocoKeypoints", "JBDDataset", "MouseKeypoints", "StickFigures"),
        "mmtokmerge.datasets.pose",
    ),
)
TRANSFORMS = Registry(
    "transform",
    parent=MMENGINE_TRANSFORMS,
    scope=SCOPE,
    locations=["mmtokmerge.datasets.transforms"],
)
METRICS = PoseRegistry(
    "metric",
    parent=MMENGINE_METRICS,
    scope=SCOPE,
    locations=["mmtokmerge.evaluation"],
    pose_types={"BoxPCK": "mmtokmerge.evaluation.pck"},
)
HOOKS = PoseRegistry(
    "hook",
    parent=MMENGINE_HOOKS,
    scope=SCOPE,
    locations=["mmtokmerge.engine"],
    pose_types={"PoseMergeVisualizationHook": "mmtokmerge.engine.hooks.pose_visualization"},
)
DATA_SAMPLERS = Registry(
    "data sampler", parent=MMENGINE_DATA_SAMPLERS, scope=SCOPE, locations=["mmtokmerge.engine"]
)
OPTIM_WRAPPER_CONSTRUCTORS = Registry(
    "optimizer wrapper constructor",
    parent=MMENGINE_OPTIM_WRAPPER_CONSTRUCTORS,
    scope=SCOPE,
    locations=["mmtokmerge.engine"],
)
OPTIM_WRAPPERS = Registry(
    "optim_wrapper", parent=MMENGINE_OPTIM_WRAPPERS, scope=SCOPE, locations=["mmtokmerge.engine"]
)
