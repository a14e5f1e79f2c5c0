"""What a forward asks of a device: no copy from the host, and no wait where numbers are fixed.

On tensors without memory that say they are on a card, a value that the host asks for is an error,
so that these tests need no card.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

pytest.importorskip("mmseg", reason="needs MMSegmentation")

from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

from mmtokmerge.kernels import attention, unpadded
from mmtokmerge.models.backbones import BEiT, MiTPlusPlus, VisionTransformer

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
NARROW = dict(embed_dims=32, num_heads=2, num_layers=4)
TOME = dict(type="mmtokmerge.ToMe", layer=[1, 2], num_merged=5)
BY_RATE = [
    dict(type="mmtokmerge.LocalMergingByRate", layer=1, keep=0.5),
    dict(type="mmtokmerge.GlobalMergingByRate", layer=2, keep=0.4),
]
CLAP = dict(type="mmtokmerge.ConditionalLocalPooling", layer=1, threshold=0.2)
GBM = dict(type="mmtokmerge.GlobalBipartiteMerging", layer=3, threshold=0.2)


class Crossings(TorchDispatchMode):
    """Collects operations whose tensors lie on more than one device."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        tensors = [x for x in tree_leaves((args, kwargs, out)) if isinstance(x, Tensor)]
        if len({x.device.type for x in tensors if x.dim() > 0}) > 1:
            self.found.append(str(func))
        return out


def on_card(model: nn.Module) -> nn.Module:
    """The model with parameters and buffers that say they are on a card; under a fake mode."""
    for module in model.modules():
        for store in (module._parameters, module._buffers):
            for name, value in store.items():
                if value is not None:
                    moved = torch.empty_like(value, device="cuda")
                    store[name] = (
                        nn.Parameter(moved, False) if name in module._parameters else moved
                    )
    return model


def crossings(model: nn.Module, shape: tuple[int, ...], dtype: torch.dtype) -> list[str]:
    """What crosses from one device to the other in a second forward, which has its constants."""
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        model = on_card(model.to(dtype).eval())
        x = torch.empty(shape, device="cuda", dtype=dtype)
        model(x)
        with Crossings() as seen:
            model(x)
    return seen.found


def plain(kind: type = VisionTransformer, **settings: Any) -> nn.Module:
    with DefaultScope.overwrite_default_scope("mmseg"):
        model: nn.Module = kind(arch=NARROW, img_size=(64, 64), patch_size=16, **settings)
    return model


MODELS_BY_NUMBER = {
    **{preset: lambda preset=preset: MiTPlusPlus("b0", preset) for preset in ("hq", "plus")},
    "n2d": lambda: MiTPlusPlus("b0", "n2d"),
    "downsample": lambda: MiTPlusPlus("b0", "none", downsample=2),
    "local": lambda: MiTPlusPlus("b0", [dict(r_kv=0.5, match="local")] * 4),
    "vit": plain,
    "tome": lambda: plain(reducers=[TOME], proportional=True),
    "by rate": lambda: plain(reducers=BY_RATE),
    "beit": lambda: plain(BEiT),
    "beit, tome": lambda: plain(BEiT, reducers=[TOME]),
}


@pytest.mark.parametrize("name", MODELS_BY_NUMBER)
@pytest.mark.parametrize("triton", ["auto", "0"])
def test_nothing_crosses_and_nothing_waits(
    name: str, triton: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also at a grid that the model was not built for, whose tables are resized."""
    monkeypatch.setenv("MMTOKMERGE_TRITON", triton)
    for dtype in (torch.float32, torch.bfloat16):
        assert crossings(MODELS_BY_NUMBER[name](), (2, 3, 96, 128), dtype) == []


def build(name: str) -> Any:
    """A config's model whose policy needs no file, with what it merges by number."""
    cfg = Config.fromfile(CONFIGS / f"{name}.py")
    model = copy.deepcopy(cfg.model)
    model.backbone.update(arch=NARROW, init_cfg=None)
    model.decode_head.update(in_channels=32, channels=32, embed_dims=32, num_heads=2)
    model.backbone.sharing.policy.pop("checkpoint", None)
    with DefaultScope.overwrite_default_scope("mmseg"):
        return MODELS.build(model)


def test_sharing_by_number_waits_for_nothing() -> None:
    model = build("cts/segmenter_vit-t_camvid_random")
    assert crossings(model.backbone, (2, 3, 96, 128), torch.float32) == []


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Names of what the host asked tensors for."""
    asked: list[str] = []
    with monkeypatch.context() as patch:
        for name in ("tolist", "item", "__bool__", "__int__", "__float__", "__index__", "nonzero"):
            own = getattr(Tensor, name)

            def ask(self: Tensor, *args: Any, own: Any = own, name: str = name) -> Any:
                asked.append(name)
                return own(self, *args)

            patch.setattr(Tensor, name, ask)
        yield asked


@pytest.mark.parametrize("unpadded_attention", [False, True])
def test_a_threshold_asks_once(unpadded_attention: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """For how many tokens each image keeps; attention without padding needs no more."""
    torch.manual_seed(0)
    model = plain(reducers=[CLAP, GBM], unpadded_attention=unpadded_attention).eval()
    x = torch.randn(2, 3, 96, 128)
    x[0, :, :48] = 0
    with torch.no_grad():
        model(x)  # thresholds are known now
        with counted(monkeypatch) as asked:
            model(x)
    assert asked == ["tolist", "tolist"]


@pytest.mark.parametrize("preset", ["hq", "plus"])
def test_training_by_rate_asks_for_nothing(preset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = MiTPlusPlus("b0", preset).train()
    with counted(monkeypatch) as asked:
        sum(out.float().mean() for out in model(torch.randn(2, 3, 64, 96))).backward()
    assert asked == []


def test_attention_of_changing_lengths_takes_no_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    """cuDNN plans for each new length: where the images decide, it is left out."""
    seen: list[bool] = []
    fused = torch.nn.functional.scaled_dot_product_attention

    def look(*args: Any, **kwargs: Any) -> Tensor:
        seen.append(torch.backends.cuda.cudnn_sdp_enabled())
        return fused(*args, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", look)
    with FakeTensorMode():
        x = torch.empty(1, 2, 8, 16, device="cuda")
        assert torch.backends.cuda.cudnn_sdp_enabled()
        attention.attend(x, x, x)
        with attention.for_changing_lengths(x):
            attention.attend(x, x, x)
        with attention.for_changing_lengths(x, changing=False):
            attention.attend(x, x, x)
    assert seen == [True, False, True]


@pytest.mark.parametrize(("reducers", "changes"), [([CLAP, GBM], True), (BY_RATE, False)])
def test_who_knows_that_lengths_change(reducers: list[Any], changes: bool) -> None:
    model = plain(reducers=reducers).eval()
    steps = []
    for layer in model.layers:
        layer.register_forward_pre_hook(lambda module, args: steps.append(args[3]))
    model(torch.randn(1, 3, 96, 128))
    flow = next(step.flow for step in steps if step is not None)
    assert flow.changes_lengths is changes


def test_lengths_are_known_on_the_host() -> None:
    lengths = torch.tensor([3, 1], dtype=torch.int32)
    assert unpadded.on_host(unpadded.remember(lengths, [3, 1])) == [3, 1]
    lengths += 1
    assert unpadded.on_host(lengths) == [4, 2]


def masked_attention(merging: Any, dtype: torch.dtype, batch: int) -> list[bool]:
    """Whether each attention of a forward on a card took a mask."""
    masks = []
    fused = torch.nn.functional.scaled_dot_product_attention

    def look(*args: Any, attn_mask: Any = None, **kwargs: Any) -> Tensor:
        masks.append(attn_mask is not None)
        return fused(*args, attn_mask=attn_mask, **kwargs)

    model = MiTPlusPlus("b0", merging).to(dtype).eval()
    with pytest.MonkeyPatch.context() as patch, FakeTensorMode(allow_non_fake_inputs=True):
        patch.setattr(torch.nn.functional, "scaled_dot_product_attention", look)
        model = on_card(model)
        with torch.no_grad():
            model(torch.empty(batch, 3, 128, 160, device="cuda", dtype=dtype))
    return masks


@pytest.mark.parametrize("merging", ["hq", "plus", [dict(r_kv=0.5, proportional=True)] * 4])
def test_no_preset_masks_its_attention(merging: Any) -> None:
    """A mask excludes flash attention; channels carry what merged keys weigh."""
    for dtype in (torch.float16, torch.bfloat16):
        assert masked_attention(merging, dtype, 2) == [False] * 8


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("width", [16, 32, 40, 64])
def test_channels_that_carry_a_bias(width: int, dtype: torch.dtype) -> None:
    """Beside the formula in fp64, sizes up to 4,096 tokens a key, one of them hidden."""
    from mmtokmerge.kernels.key_weights import carry_bias

    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 3, n, width).to(dtype) for n in (20, 30, 30))
    bias = torch.randint(1, 4097, (2, 1, 1, 30)).float().log()
    bias[0, ..., 7] = -torch.inf
    logits = q.double() @ k.double().mT * width**-0.5 + bias.double()
    expected = logits.softmax(-1) @ v.double()
    more_q, more_k, more_v, scale = carry_bias(q, k, v, bias)
    assert more_q.shape[-1] == more_k.shape[-1] == more_v.shape[-1] > width
    assert more_q.shape[-1] % (8 if dtype in unpadded.DTYPES else 4) == 0
    exact = more_q.double() @ more_k.double().mT * scale
    hidden = torch.isinf(bias).expand_as(exact)
    tolerance = 1e-9 if dtype == torch.float64 else 2e-4
    torch.testing.assert_close(exact[~hidden], logits[~hidden], atol=tolerance, rtol=0)
    assert (exact[hidden] < -1000).all()
    found = torch.nn.functional.scaled_dot_product_attention(more_q, more_k, more_v, scale=scale)[
        ..., :width
    ]
    step = torch.finfo(dtype).eps
    torch.testing.assert_close(found.double(), expected, atol=4 * step + 1e-5, rtol=4 * step)
