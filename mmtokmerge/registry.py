"""Child registries of MMEngine's, scope ``mmtokmerge``: configs name our types ``mmtokmerge.X``.

Each registry knows the modules that register its types (``locations``) and imports them when it is
first asked, so a type is never "not in the registry" and ``import mmtokmerge`` stays light.
"""

from __future__ import annotations

from mmengine.registry import DATASETS as MMENGINE_DATASETS
from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import METRICS as MMENGINE_METRICS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import TRANSFORMS as MMENGINE_TRANSFORMS
from mmengine.registry import Registry

SCOPE = "mmtokmerge"

MODELS = Registry(
    "model", parent=MMENGINE_MODELS, scope=SCOPE, locations=["mmtokmerge.models"]
)
DATASETS = Registry(
    "dataset", parent=MMENGINE_DATASETS, scope=SCOPE, locations=["mmtokmerge.datasets"]
)
TRANSFORMS = Registry(
    "transform",
    parent=MMENGINE_TRANSFORMS,
    scope=SCOPE,
    locations=["mmtokmerge.datasets.transforms"],
)
METRICS = Registry(
    "metric", parent=MMENGINE_METRICS, scope=SCOPE, locations=["mmtokmerge.evaluation"]
)
HOOKS = Registry("hook", parent=MMENGINE_HOOKS, scope=SCOPE, locations=["mmtokmerge.engine"])
