"""Which kernel attention takes follows from the processor's maker."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mmtokmerge.kernels import attention, linear, processor


@pytest.mark.parametrize(
    ("text", "maker"),
    [
        ("processor\t: 0\nvendor_id\t: AuthenticAMD\ncpu family\t: 25\n", "AuthenticAMD"),
        ("processor\t: 0\nvendor_id\t: GenuineIntel\n", "GenuineIntel"),
        ("processor\t: 0\nCPU implementer\t: 0x41\n", ""),
    ],
)
def test_the_maker_is_read(
    text: str, maker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr(processor, "CPUINFO", tmp_path / "cpuinfo")
    assert processor.processor_maker() == maker
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    assert processor.products_are_slow.__wrapped__() is (maker == "AuthenticAMD")
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: False)
    assert processor.products_are_slow.__wrapped__() is False


@torch.no_grad()
def test_attention_takes_rows_where_torch_s_products_are_slow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    q, k = torch.randn(1, 2, 4096, 64), torch.randn(1, 2, 256, 64)
    monkeypatch.setattr(linear, "products_are_slow", lambda: True)
    assert attention.by_rows(4096, k)
    rows = attention.attend(q, k, k)
    monkeypatch.setattr(linear, "products_are_slow", lambda: False)
    assert not attention.by_rows(4096, k)
    torch.testing.assert_close(attention.attend(q, k, k), rows, atol=1e-5, rtol=1e-4)
