"""An exported file in the place of a config's network."""

from __future__ import annotations

from mmengine.config import Config, ConfigDict


def use_exported(cfg: Config, path: str) -> None:
    """Let a config predict with a file of ``mmtokmerge export`` instead of its network.

    Args:
        cfg: The config that it was exported from, or another with the same data.
        path: ``*.onnx``, ``*.xml`` or ``*.pt2``.
    """
    cfg.load_from = None
    common = dict(file=path, data_preprocessor=cfg.model.data_preprocessor)
    if cfg.get("default_scope") == "mmpose":
        cfg.model = ConfigDict(
            type="mmtokmerge.ExportedPoseEstimator",
            decoder=(cfg.model.get("head") or {}).get("decoder"),
            test_cfg=cfg.model.get("test_cfg"),
            **common,
        )
        return
    cfg.model = ConfigDict(
        type="mmtokmerge.ExportedSegmentor",
        test_cfg=cfg.model.get("test_cfg") or dict(mode="whole"),
        **common,
    )
