"""Predictions saved to one file, which is whole or not there."""

from __future__ import annotations

import pickle
from typing import Any

from mmengine.evaluator import DumpResults
from mmengine.logging import print_log

from mmtokmerge.registry import METRICS
from mmtokmerge.reporting.files import write_bytes


@METRICS.register_module()
class SavedPredictions(DumpResults):
    """mmengine's ``DumpResults``, with the same arguments, whose file an error leaves as it was."""

    def compute_metrics(self, results: list) -> dict[str, Any]:
        """Write the predictions of all images."""
        write_bytes(self.out_file_path, pickle.dumps(results))
        print_log(f"Predictions are saved to {self.out_file_path}.", logger="current")
        return {}
