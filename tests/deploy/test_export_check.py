"""Comparing a file with its model on test images: refused early, refused late, nothing held."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor

from mmtokmerge.deploy import Sizes
from mmtokmerge.errors import InputError

pytest.importorskip("mmseg")
WEIGHTS = Path(__file__).parents[2] / "mmtokmerge" / "assets" / "b0_streets.pth"


@pytest.fixture(scope="module")
def loaded() -> tuple[Any, Any]:
    from mmtokmerge.engine.config import load_config
    from mmtokmerge.engine.loading import load_model

    cfg = load_config("b0_demo_none")
    cfg.test_dataloader.dataset = dict(
        type="mmtokmerge.EndlessStreets",
        num_scenes=3,
        sizes=[[64, 96]],
        pipeline=[dict(type="PackSegInputs")],
    )
    return cfg, load_model(cfg, str(WEIGHTS)).model


def check_of(loaded: tuple[Any, Any], sizes: Sizes, shape: tuple[int, ...], number: int = 2) -> Any:
    from mmtokmerge.measure.export_check import Check
    from mmtokmerge.models.whole_network import WholeNetwork

    cfg, model = loaded
    network = WholeNetwork(model).eval()
    return Check(cfg, model, network, number, sizes, shape, Console(quiet=True))


def test_images_that_a_file_will_not_take_are_known_before(loaded: tuple[Any, Any]) -> None:
    with pytest.raises(InputError, match=r"sees \[1, 3, 64, 96\], but a --static file takes"):
        check_of(loaded, Sizes(static=True), (1, 3, 256, 256))
    with pytest.raises(InputError, match="256"):
        check_of(loaded, Sizes(), (1, 3, 256, 256))


def test_a_file_that_agrees_is_taken_and_one_that_does_not_is_refused(
    loaded: tuple[Any, Any],
) -> None:
    check = check_of(loaded, Sizes(static=True), (1, 3, 64, 96))

    def right(images: Tensor) -> list[Tensor]:
        return [check.network(images)]

    def wrong(images: Tensor) -> list[Tensor]:  # one row in 32 has another class
        logits = check.network(images)
        logits[:, :, ::32] = -logits[:, :, ::32]
        return [logits]

    with torch.no_grad():
        check(right, "fp32")
        assert check.share == 1
        with pytest.raises(InputError, match=r"2 images of the test set labels agree on 9\d\.\d+%"):
            check(wrong, "fp32")
        check(wrong, "int8")  # which may differ more
    assert not any(isinstance(value, (Tensor, list)) for value in vars(check).values())
