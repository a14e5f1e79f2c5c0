"""Whoever keeps what a module returned, by a hook, a patch or a wrapper, keeps what it was."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mmtokmerge.models.backbones import BEiT, MiTPlusPlus, VisionTransformer

SMALL = dict(embed_dims=8, num_layers=(1, 1, 1, 2))
ARCH = dict(embed_dims=16, num_layers=2, num_heads=2)
CLAP = dict(type="mmtokmerge.ConditionalLocalPooling", layer=1, threshold=0.0)
MODELS = {
    "MiT++ none": lambda: MiTPlusPlus(SMALL),
    "MiT++ hq": lambda: MiTPlusPlus(SMALL, merging="hq"),
    "MiT++ n2d": lambda: MiTPlusPlus(SMALL, merging="n2d"),
    "ViT": lambda: VisionTransformer(ARCH, img_size=64),
    "ViT with CLAP": lambda: VisionTransformer(ARCH, img_size=64, reducers=[CLAP]),
    "BEiT": lambda: BEiT(ARCH, img_size=64),
}


def tensors(out: Any) -> list[Tensor]:
    values = out if isinstance(out, (tuple, list)) else [out]
    return [each for each in values if isinstance(each, Tensor)]


class Keeper:
    """Keeps outputs, and copies of them as they were."""

    def __init__(self) -> None:
        self.outputs: list[Tensor] = []
        self.copies: list[Tensor] = []

    def keep(self, out: Any) -> None:
        self.outputs += tensors(out)
        self.copies += [each.clone() for each in tensors(out)]

    def changed(self) -> bool:
        return any(not a.equal(b) for a, b in zip(self.outputs, self.copies, strict=True))


class Wrapped(nn.Module):
    """A module of somebody else's in the place of one of ours."""

    def __init__(self, inner: nn.Module, keeper: Keeper) -> None:
        super().__init__()
        self.inner, self.keeper = inner, keeper

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        out = self.inner(*args, **kwargs)
        self.keeper.keep(out)
        return out


def names_of(model: nn.Module, how: str) -> list[str]:
    """Modules to keep outputs of; only leaves and blocks' parts may be replaced whole."""
    names = [name for name, _ in model.named_modules() if name]
    if how != "wrap":
        return names
    parts = [n for n in names if n.split(".")[-1] in ("ffn", "attn", "drop_path", "drop")]
    return [n for n in parts if not hasattr(model.get_submodule(n), "merging")]


@pytest.mark.parametrize("how", ["hook", "patch", "wrap"])
@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_what_a_module_returned_stays_as_it_was(name: str, how: str) -> None:
    torch.manual_seed(0)
    model = MODELS[name]()
    model.init_weights()
    model.eval()
    x = torch.randn(2, 3, 64, 64)
    expected = model(x)
    for path in names_of(model, how):
        keeper, module = Keeper(), model.get_submodule(path)
        parent = model.get_submodule(path.rpartition(".")[0])
        leaf = path.rpartition(".")[2]
        if how == "hook":
            handle = module.register_forward_hook(lambda _, __, out, k=keeper: k.keep(out))
        elif how == "patch":
            forward = module.forward

            def keeping(*args: Any, _f: Any = forward, _k: Keeper = keeper, **kwargs: Any) -> Any:
                out = _f(*args, **kwargs)
                _k.keep(out)
                return out

            module.forward = keeping
        else:
            setattr(parent, leaf, Wrapped(module, keeper))
        found = model(x)
        assert not keeper.changed(), path
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
        if how == "hook":
            handle.remove()
        elif how == "patch":
            del module.forward
        else:
            setattr(parent, leaf, module)
