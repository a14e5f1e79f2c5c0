"""Build every config's model, data sets and metrics in one interpreter, and report on them.

Prints one JSON object: for each config, relative to the folder of configs, the facts that
``tests/test_configs.py`` checks, or the error that building raised.

    python tests/reference/build_configs.py configs
"""

from __future__ import annotations

import json
import sys
import traceback
from importlib.util import find_spec
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, METRICS, MODELS, init_default_scope


def prepare(scope: str) -> None:
    """Import the host of a scope once and make it the default."""
    if scope == "mmpose":
        from mmtokmerge._mmpose_import import import_mmpose

        import_mmpose()
    else:
        from mmseg.utils import register_all_modules

        register_all_modules(init_default_scope=False)
    init_default_scope(scope)


def num_outputs(metainfo: dict[str, Any]) -> int:
    """How many classes or keypoints a data set has."""
    return metainfo.get("num_keypoints") or len(metainfo["classes"])


def build_metric(evaluator: Any) -> None:
    """Build the metrics of an evaluator, except those that read a file of annotations."""
    for metric in evaluator if isinstance(evaluator, (list, tuple)) else [evaluator]:
        if "ann_file" not in metric:
            METRICS.build(metric)


def with_preprocessors(value: Any) -> Any:
    """A model's config with its data preprocessors built: policies read their mean and std."""
    if isinstance(value, dict):
        made = {key: with_preprocessors(item) for key, item in value.items()}
        if isinstance(made.get("data_preprocessor"), dict):
            made["data_preprocessor"] = MODELS.build(made["data_preprocessor"])
        return made
    if isinstance(value, (list, tuple)):
        return type(value)(map(with_preprocessors, value))
    return value


def accepted(kind: type) -> set[str]:
    """Names of what a class's constructors take, up to the first that passes nothing on."""
    names: set[str] = set()
    for each in kind.__mro__:
        parameters = signature(each.__init__).parameters.values()
        names |= {p.name for p in parameters}
        if not any(p.kind is Parameter.VAR_KEYWORD for p in parameters):
            break
    return names


def build(path: Path) -> dict[str, Any]:
    """Build what a config defines; no data and no weights are read."""
    cfg = Config.fromfile(path)
    if cfg.default_scope == "mmpose" and find_spec("mmpose") is None:
        return dict(scope="mmpose", skipped="MMPose is not installed")
    prepare(cfg.default_scope)
    settings = with_preprocessors(cfg.model.to_dict())
    with torch.device("meta"):
        model = MODELS.build(settings)
    outputs = {}
    for split in ("train", "val", "test"):
        definition = dict(cfg[f"{split}_dataloader"].dataset)
        if "lazy_init" in accepted(DATASETS.get(definition["type"])):
            definition["lazy_init"] = True
        outputs[split] = num_outputs(DATASETS.build(definition).metainfo)
        if split != "train":
            build_metric(cfg[f"{split}_evaluator"])
    return dict(
        scope=cfg.default_scope,
        parameters=sum(p.numel() for p in model.parameters()),
        meta=all(p.is_meta for p in model.parameters()),
        outputs=outputs,
        imports=cfg.custom_imports.imports,
        model=cfg.model.to_dict(),
        optimizer=cfg.optim_wrapper.to_dict(),
        schedule=cfg.param_scheduler,
        train=cfg.train_cfg.to_dict(),
        batch=cfg.train_dataloader.batch_size,
    )


def main() -> None:
    """Build all configs under the folder that the command line names."""
    root = Path(sys.argv[1])
    report = {}
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root).as_posix()
        if name.startswith("_base_/"):
            continue
        try:
            report[name] = build(path)
        except Exception:  # one broken config must not hide the others
            report[name] = dict(error=traceback.format_exc(limit=-3))
    print(json.dumps(report, default=str))


if __name__ == "__main__":
    main()
