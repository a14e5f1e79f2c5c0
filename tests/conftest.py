"""Settings that all tests share."""

from __future__ import annotations

import torch
from hypothesis import settings

# The same examples on every run, and no time limit for one of them: machines differ.
settings.register_profile("project", deadline=None, derandomize=True, max_examples=40)
settings.load_profile("project")

torch.set_num_threads(1)
