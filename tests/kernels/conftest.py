"""A process in which Triton interprets its kernels on CPU tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import pytest
import torch


@pytest.fixture(scope="session")
def worker() -> Iterator[ProcessPoolExecutor]:
    """The process; the variable must stand before Triton's first import."""
    pytest.importorskip("triton")
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TRITON_INTERPRET", "1")
            pool.submit(torch.set_num_threads, 1).result()
        yield pool


@pytest.fixture(scope="session")
def run(worker: ProcessPoolExecutor) -> Callable[..., Any]:
    """Runs a function in that process."""
    return lambda function, *args: worker.submit(function, *args).result()
