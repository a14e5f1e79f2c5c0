"""FLOPs of what torch does not count by itself."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from mmtokmerge.measure.flops import counting_flops


@pytest.mark.parametrize("masked", [False, True])
def test_fused_attention_on_the_cpu(masked: bool) -> None:
    batch, heads, queries, keys, channels = 2, 3, 50, 20, 8
    q = torch.randn(batch, heads, queries, channels)
    k = torch.randn(batch, heads, keys, channels)
    mask = torch.zeros(batch, 1, 1, keys) if masked else None
    with torch.no_grad(), counting_flops() as counter:
        F.scaled_dot_product_attention(q, k, k, attn_mask=mask)
    assert counter.get_total_flops() == 2 * 2 * batch * heads * queries * keys * channels


def test_fast_path_of_multi_head_attention() -> None:
    layer = torch.nn.MultiheadAttention(16, 2, batch_first=True).eval()
    x = torch.randn(1, 50, 16)
    with torch.no_grad(), counting_flops(layer) as counter:
        layer(x, x, x, need_weights=False)
    assert counter.get_total_flops() == 2 * (4 * 50 * 16 * 16 + 2 * 50 * 50 * 16)
    assert torch.backends.mha.get_fastpath_enabled()


class Queries(torch.nn.Module):
    """Gives a trainable parameter to a layer, as decoders with class queries do."""

    def __init__(self) -> None:
        super().__init__()
        self.queries = torch.nn.Embedding(5, 8)
        self.layer = torch.nn.Linear(8, 3)
        self.layer.bias.requires_grad_(False)

    def forward(self) -> torch.Tensor:
        return self.layer(self.queries.weight)


def test_parameters_as_inputs_are_counted_and_stay_trainable() -> None:
    model = Queries()
    with torch.no_grad(), counting_flops(model) as counter:
        model()
    assert counter.get_total_flops() == 2 * 5 * 8 * 3
    trainable = {name for name, value in model.named_parameters() if value.requires_grad}
    assert trainable == {"queries.weight", "layer.weight"}


def test_everything_comes_back_after_an_error() -> None:
    layer = torch.nn.Linear(2, 2)
    with pytest.raises(RuntimeError, match="stop"), counting_flops(layer):
        raise RuntimeError("stop")
    assert torch.backends.mha.get_fastpath_enabled()
    assert layer.weight.requires_grad
