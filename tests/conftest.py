"""Settings that all tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings
from tracing import stop

# The same examples on every run, and no time limit for one of them: machines differ.
settings.register_profile("project", deadline=None, derandomize=True, max_examples=40)
settings.load_profile("project")

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def no_trace_outlives_its_test() -> Iterator[None]:
    """Close what ``tracing.follow`` opened."""
    yield
    stop()
