"""Exporting models with merging in them to the runtimes that people ship, and checking each file.

Torch alone is needed, and the runtime: onnxruntime for ``*.onnx``, OpenVINO for ``*.xml``. No file
is left behind that does not give what the model gives.
"""

from __future__ import annotations

from mmtokmerge.deploy.export import export
from mmtokmerge.deploy.runtimes import Exported, load_exported
from mmtokmerge.deploy.sizes import Sizes

__all__ = ["Exported", "Sizes", "export", "load_exported"]
