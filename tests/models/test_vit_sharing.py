"""Token sharing in the plain ViT: embeddings by hand, counts, batches, odd grids, ALGM after it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from tracing import ended, follow

from mmtokmerge.errors import InputError, InputTypeError
from mmtokmerge.models import VisionTransformer
from mmtokmerge.models.overrides import without_merging
from mmtokmerge.models.policies import Policy, PolicyInput
from mmtokmerge.registry import MODELS

ARCH = dict(embed_dims=32, num_layers=3, num_heads=2)


@MODELS.register_module(name="BrightnessPolicy", force=True)
class BrightnessPolicy(Policy):
    """Brighter superpatches share first: a policy that looks at each image alone."""

    def forward(self, inputs: PolicyInput) -> Tensor:
        rows, columns = inputs.cells
        return F.adaptive_avg_pool2d(inputs.images.mean(1, keepdim=True), (rows, columns))[:, 0]


def build(sharing: dict[str, Any] | None, **kwargs: Any) -> VisionTransformer:
    torch.manual_seed(0)
    if sharing is not None:
        sharing = dict(dict(policy=dict(type="mmtokmerge.BrightnessPolicy")), **sharing)
    model = VisionTransformer(ARCH, img_size=(64, 96), sharing=sharing, **kwargs)
    for parameter in model.parameters():
        parameter.data = torch.randn_like(parameter) * 0.2 + (parameter == 1)
    return follow(model.eval())


def images(batch: int = 1, size: tuple[int, int] = (96, 128)) -> Tensor:
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def run(model: VisionTransformer, x: Tensor) -> Tensor:
    return model(x)[0]


@pytest.mark.parametrize("sharing", [dict(num_shared=0), dict(num_shared=0.0)])
def test_sharing_nothing_is_the_baseline(sharing: dict[str, Any]) -> None:
    x = images(2)
    model = build(sharing)
    assert torch.equal(run(model, x), run(build(None), x))
    assert ended(model).sharing is None and ended(model).assignment.num_groups == 48


@pytest.mark.parametrize("sharing", [dict(num_shared=12), dict(num_shared=1.0)])
def test_sharing_everything_leaves_a_quarter(sharing: dict[str, Any]) -> None:
    model = build(sharing)
    run(model, images())
    assert ended(model).assignment.num_groups == 48 // 4
    assert ended(model).assignment.sizes.tolist() == [[4] * 12]


def test_no_reduction_shares_nothing() -> None:
    x, model = images(), build(dict(num_shared=5))
    with without_merging(model):
        assert torch.equal(run(model, x), run(build(None), x))
    assert not torch.equal(run(model, x), run(build(None), x))


@pytest.mark.parametrize("cls_token", [True, False])
@pytest.mark.parametrize("size", [(96, 128), (80, 144), (75, 100), (16, 70)])
def test_embeddings_are_those_of_the_paper(size: tuple[int, int], cls_token: bool) -> None:
    """Pixels by bilinear x0.5, positions as means, one group after the other (section 3.2)."""
    model = build(dict(num_shared=0.4), with_cls_token=cls_token)
    x = images(2, size)
    with torch.no_grad():
        tokens, flow = model.embed(x)
        state, (h, w) = flow.assignment, flow.grid
        padded = F.pad(x, (0, 16 * w - size[1], 0, 16 * h - size[0]))
        position = model.positions(model.pos_embed, (h, w))[0]
    if int(0.4 * (h // 2) * (w // 2)) == 0:
        assert state is None and tokens.shape[1] == h * w + cls_token
        return
    projection = model.patch_embed.projection
    for row in range(2):
        for group in range(state.num_groups):
            members = (state.groups[row] == group).nonzero().flatten()
            top, left = divmod(int(members[0]), w)
            side = 16 if len(members) == 1 else 32
            pixels = padded[row : row + 1, :, 16 * top :, 16 * left :][:, :, :side, :side]
            patch = F.interpolate(pixels, (16, 16), mode="bilinear", align_corners=False)
            expected = (projection.weight * patch).sum((1, 2, 3)) + projection.bias
            expected = expected + position[1 + members].mean(0)
            found = tokens[row, group + cls_token]
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_the_brightest_superpatches_share_and_come_back_as_copies() -> None:
    model = build(dict(num_shared=2))
    x = torch.zeros(1, 3, 96, 128)
    x[:, :, 32:64, 64:96] = 5  # superpatch (1, 2)
    x[:, :, 64:, :32] = 4  # superpatch (2, 0)
    out = run(model, x + 0.01 * images())[0]
    together = torch.zeros(6, 8, dtype=torch.bool)
    together[2:4, 4:6] = together[4:, :2] = True
    for top, left in ((2, 4), (4, 0)):
        block = out[:, top : top + 2, left : left + 2].flatten(1)
        assert torch.equal(block, block[:, :1].expand(-1, 4))
    sizes = ended(model).assignment.sizes.gather(1, ended(model).assignment.groups).view(6, 8)
    assert torch.equal(sizes == 4, together)


@pytest.mark.parametrize("size", [(96, 128), (80, 144)])
@pytest.mark.parametrize("sharing", [dict(num_shared=5), dict(num_shared=0.5), dict(threshold=0.0)])
@pytest.mark.parametrize("proportional", [False, True])
def test_an_image_alone_equals_itself_in_a_batch(
    sharing: dict[str, Any], size: tuple[int, int], proportional: bool
) -> None:
    model = build(sharing, proportional=proportional, out_indices=[0, 2])
    x = images(4, size) + torch.linspace(-0.02, 0.02, 4)[:, None, None, None]
    with torch.no_grad():
        together = model(x)
        if "threshold" in sharing:
            assert ended(model).assignment.padded, (
                "numbers must differ for this test to say anything"
            )
        for row in range(4):
            for a, b in zip(model(x[row : row + 1]), together):
                torch.testing.assert_close(a, b[row : row + 1], atol=1e-4, rtol=1e-4)


def test_a_threshold_decides_each_images_number() -> None:
    model = build(dict(threshold=0.5))
    x = torch.zeros(2, 3, 64, 64)
    x[0, :, :32] = 1  # two of four superpatches
    x[1, :, 32:, 32:] = 1  # one of four
    run(model, x)
    assert ended(model).sharing.padded
    assert (ended(model).sharing.sizes > 0).sum(1).tolist() == [16 - 6, 16 - 3]
    assert ended(model).sharing.sizes.sum(1).tolist() == [16, 16]


def reducers() -> list[dict[str, Any]]:
    return [
        dict(type="mmtokmerge.ConditionalLocalPooling", layer=1, threshold=0.0),
        dict(type="mmtokmerge.GlobalBipartiteMerging", layer=2, threshold=0.3),
    ]


@pytest.mark.parametrize("sharing", [dict(num_shared=4), dict(threshold=0.0)])
def test_algm_goes_on_with_what_is_shared(sharing: dict[str, Any]) -> None:
    x, model = images(3), build(sharing, reducers=reducers())
    together = run(model, x)
    shared, final = ended(model).sharing, ended(model).assignment
    assert (final.sizes > 0).sum() < (shared.sizes > 0).sum()
    assert final.sizes.sum(1).tolist() == [48] * 3
    for row in range(3):  # what shares a token stays together
        for group in range(shared.num_groups):
            members = final.groups[row][shared.groups[row] == group]
            assert len(set(members.tolist())) <= 1
        torch.testing.assert_close(
            run(model, x[row : row + 1])[0], together[row], atol=1e-4, rtol=1e-4
        )


@pytest.mark.parametrize("sharing", [dict(num_shared=4), dict(threshold=0.0)])
def test_gradients_reach_every_weight(sharing: dict[str, Any]) -> None:
    model = build(sharing).train()
    model(images(2))[0].square().mean().backward()
    lacking = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert lacking == []


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype: torch.dtype) -> None:
    model = build(dict(num_shared=4))
    exact = run(model, images())
    half = run(model.to(dtype), images().to(dtype))
    assert half.dtype == dtype and half.isfinite().all()
    assert (half.float() - exact).abs().mean() < 0.1 * exact.abs().mean()


def test_compiles_without_a_break() -> None:
    model = build(dict(num_shared=4))
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(images())[0], model(images())[0])


RANDOM = dict(type="mmtokmerge.RandomPolicy")


@pytest.mark.parametrize(
    ("sharing", "error", "says"),
    [
        (dict(policy=RANDOM), InputError, "either num_shared or threshold"),
        (dict(policy=RANDOM, num_shared=1, threshold=0.5), InputError, "either num_shared or"),
        (dict(policy=RANDOM, num_shared=-1), InputError, "num_shared=-1 must be"),
        (dict(policy=RANDOM, num_shared=1.5), InputError, "num_shared=1.5 must be"),
        (dict(policy=RANDOM, num_shared="all"), InputTypeError, "num_shared must be an int"),
        (dict(policy=RANDOM, threshold="0.5"), InputTypeError, "threshold must be a number"),
        (dict(policy=RANDOM, num_shared=1, size=3), InputError, "sharing.size is unknown"),
        (dict(num_shared=1), InputTypeError, "must be a dict with a policy"),
        (dict(policy=dict(type="mmtokmerge.ToMe", layer=1, num_merged=1), num_shared=1),
         InputTypeError, "is no policy"),
        (dict(policy=dict(type="mmtokmerge.RandomPolicy", seed="a"), num_shared=1),
         InputTypeError, "seed must be None or an int"),
    ],
)  # fmt: skip
def test_bad_settings_fail_when_built(
    sharing: dict[str, Any], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        VisionTransformer(ARCH, sharing=sharing)


def test_too_many_superpatches_for_a_grid() -> None:
    with pytest.raises(InputError, match="num_shared=13 is impossible on a grid of 6x8 patches"):
        run(build(dict(num_shared=13)), images())


@pytest.mark.parametrize("make", [lambda: build(dict(num_shared=4)), lambda: build(None)])
def test_sharing_adds_nothing_to_the_state_dict(make: Callable[[], VisionTransformer]) -> None:
    assert set(make().state_dict()) == set(build(None).state_dict())


@pytest.mark.parametrize("size", [(16, 96), (96, 16), (16, 16)])
def test_a_grid_without_whole_superpatches_shares_nothing(size: tuple[int, int]) -> None:
    x = images(2, size)
    for sharing in (dict(threshold=0.5), dict(num_shared=0.5)):
        assert torch.equal(run(build(sharing), x), run(build(None), x))


def test_a_policy_of_other_superpatches_fails_when_built() -> None:
    backbone = dict(type="mmtokmerge.BrightnessPolicy")  # never run
    network = dict(type="mmtokmerge.PolicyNetwork", backbone=backbone, cell=16)
    policy = dict(type="mmtokmerge.NetworkPolicy", network=network)
    with pytest.raises(InputError, match="cell=16 does not fit patch_size=16"):
        VisionTransformer(ARCH, sharing=dict(policy=policy, num_shared=1))
