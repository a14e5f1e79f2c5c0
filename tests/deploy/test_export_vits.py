"""Exports of plain ViTs whose images decide: CTS by its policy network, ALGM up to a most."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

pytest.importorskip("onnxruntime")
pytest.importorskip("mmtokmerge.models")

from mmengine.registry import init_default_scope
from mmseg.registry import MODELS

from mmtokmerge.deploy import Sizes, export, load_exported
from mmtokmerge.engine.config import load_config
from mmtokmerge.merging.trace import trace
from mmtokmerge.models.whole_network import WholeNetwork


def parted(batch: int, height: int, width: int) -> torch.Tensor:
    """Images of noise with plain parts, each image elsewhere."""
    x = torch.randn(batch, 3, height, width)
    x[::2, :, : height // 2] = 0.5
    x[1::2, :, :, width // 4 :] = -0.5
    return x


@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
def test_a_policy_network_decides_in_the_graph(suffix: str, tmp_path: Path) -> None:
    """CTS: other patches share in other images, and the file follows."""
    init_default_scope("mmseg")
    cfg = load_config("segmenter_vit-t_camvid_cts")
    policy = cfg.model.backbone.sharing.policy
    torch.manual_seed(1)
    network = MODELS.build(policy.network)
    nn.init.normal_(network.classifier.weight, std=0.02)
    policy.checkpoint = str(tmp_path / "policy.pth")
    torch.save(network.state_dict(), policy.checkpoint)
    cfg.model.backbone.pop("init_cfg", None)
    model = MODELS.build(cfg.model).eval()
    x = parted(2, 128, 160)
    with torch.no_grad(), trace(model.backbone) as found:
        model.backbone(x)
    groups = found.sharing.groups
    assert not torch.equal(groups[0], groups[1])
    path = tmp_path / f"cts{suffix}"
    report = export(WholeNetwork(model).eval(), x, path, sizes=Sizes(static=True))
    assert report.worst < 1e-4
    exported = load_exported(path)
    for batch in (x, x.flip(0), x.flip(3)):
        with torch.no_grad():
            expected = WholeNetwork(model).eval()(batch)
        torch.testing.assert_close(exported(batch)[0], expected, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
def test_a_threshold_with_a_most(suffix: str, tmp_path: Path) -> None:
    """ALGM with the tokens that an image needs, up to a most; the file says who needed more."""
    init_default_scope("mmseg")
    cfg = load_config("segmenter_vit-t_camvid_algm")
    cfg.model.backbone.pop("init_cfg", None)
    for reducer, most in zip(cfg.model.backbone.reducers, (50, 40)):
        reducer.update(threshold=0.9, max_tokens=most)
    torch.manual_seed(0)
    network = WholeNetwork(MODELS.build(cfg.model).eval()).eval()
    x = torch.cat([parted(2, 128, 160), torch.randn(1, 3, 128, 160)])
    with torch.no_grad():
        logits, beyond = network(x)
    assert beyond[:2].max() < beyond[2] and (beyond == 0).any(), beyond
    path = tmp_path / f"algm{suffix}"
    report = export(network, x, path, sizes=Sizes(static=True))
    assert report.worst < 1e-4
    for batch in (x, x.flip(0), x.flip(3)):
        with torch.no_grad():
            expected = network(batch)
        for one, other in zip(load_exported(path)(batch), expected, strict=True):
            torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)
