"""What ``tools/test.py`` adds to a config."""

from __future__ import annotations

import os

from mmengine.config import Config, ConfigDict

from mmtokmerge.deploy.runtimes import is_exported
from mmtokmerge.engine.exported import use_exported
from mmtokmerge.engine.launch import check_checkpoint, load_config
from mmtokmerge.errors import InputError


def use_checkpoint(cfg: Config, checkpoint: str) -> None:
    """Test these weights, all of them: a weight that does not fit is an error."""
    cfg.resume = False
    if is_exported(checkpoint):
        use_exported(cfg, checkpoint)
        return
    check_checkpoint(checkpoint)
    cfg.load_from = checkpoint
    cfg.custom_hooks = [*cfg.get("custom_hooks", []), {"type": "mmtokmerge.StrictLoadHook"}]


def save_predictions(cfg: Config, out: str) -> None:
    """Add what saves predictions to the config's evaluator.

    Args:
        cfg: The config.
        out: A folder for label maps (PNG, segmentation only), or a file ``*.pkl`` for everything
            the model returned; '' is ``predictions`` or, for pose, ``predictions.pkl`` in the
            work_dir.
    """
    is_pose = cfg.get("default_scope") == "mmpose"
    out = out or os.path.join(cfg.work_dir, "predictions.pkl" if is_pose else "predictions")
    evaluators = cfg.test_evaluator
    evaluators = list(evaluators) if isinstance(evaluators, (list, tuple)) else [evaluators]
    if out.endswith((".pkl", ".pickle")):
        evaluators.append(ConfigDict(type="mmtokmerge.SavedPredictions", out_file_path=out))
    elif is_pose:
        raise InputError(f"--out {out}: pose predictions are saved to one file, named *.pkl.")
    else:
        evaluators[0]["output_dir"] = out
    cfg.test_evaluator = evaluators if len(evaluators) > 1 else evaluators[0]


def save_pictures(cfg: Config, show_dir: str) -> None:
    """Make the visualization hook draw every prediction into ``show_dir``."""
    hook = cfg.get("default_hooks", {}).get("visualization")
    if hook is None:
        raise InputError(
            "--show-dir needs a hook under default_hooks.visualization, but the config has none."
        )
    if cfg.get("default_scope") == "mmpose":
        if hook.get("type") in ("PoseVisualizationHook", "mmpose.PoseVisualizationHook"):
            hook["type"] = "mmtokmerge.PoseMergeVisualizationHook"
        hook["enable"] = True
        hook["out_dir"] = show_dir
        return
    if hook.get("type") in ("SegVisualizationHook", "mmseg.SegVisualizationHook"):
        hook["type"] = "mmtokmerge.MergeVisualizationHook"  # which draws merged tokens too
    hook["draw"] = True
    visualizer = cfg.setdefault(
        "visualizer", ConfigDict(type="SegLocalVisualizer", name="visualizer")
    )
    if not visualizer.get("vis_backends"):  # mmengine then keeps no picture
        visualizer["vis_backends"] = [ConfigDict(type="LocalVisBackend")]
    visualizer["save_dir"] = show_dir


def compare_pictures(cfg: Config, config: str, checkpoint: str) -> None:
    """Make the visualization hook draw the differences to a second model's predictions.

    Args:
        cfg: The config, after :func:`save_pictures`.
        config: The second model's config.
        checkpoint: The path of the model's weights.
    """
    hook = cfg.get("default_hooks", {}).get("visualization", {})
    if hook.get("type") != "mmtokmerge.MergeVisualizationHook":
        raise InputError(
            "--compare needs default_hooks.visualization of type "
            f"'mmtokmerge.MergeVisualizationHook', but the config has {hook.get('type')!r}."
        )
    load_config(config)
    check_checkpoint(checkpoint)
    hook["compare"] = {"config": config, "checkpoint": checkpoint}


def augment_test(cfg: Config) -> None:
    """Average predictions over the scales and flips of the config's ``tta_pipeline``."""
    missing = [key for key in ("tta_model", "tta_pipeline") if key not in cfg]
    if missing:
        raise InputError(f"--tta needs {' and '.join(missing)} in the config, which has none.")
    cfg.test_dataloader.dataset.pipeline = cfg.tta_pipeline
    cfg.tta_model.module = cfg.model
    cfg.model = cfg.tta_model
