"""Triton's kernels of groups, means and unmerging, in Triton's interpreter, against torch."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmtokmerge.kernels.gpu import operators, switch
from mmtokmerge.merging import TokenAssignment, bipartite_matching, neighbour_pooling

Run = Callable[..., Any]
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
GRIDS = [  # grid, cell, offset: remainders, one row, a cell as large as the grid, several blocks
    ((6, 8), (2, 2), (0, 0)),
    ((7, 9), (4, 4), (0, 0)),
    ((7, 9), (2, 3), (1, 1)),
    ((1, 13), (1, 4), (0, 2)),
    ((5, 3), (5, 3), (2, 1)),
    ((20, 33), (4, 4), (2, 2)),
]


def check(dtype: torch.dtype) -> str | None:
    from mmtokmerge.kernels.gpu.check import first_difference

    return first_difference(torch.device("cpu"), dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_check_at_first_use_agrees(dtype: torch.dtype, run: Run) -> None:
    assert run(check, dtype) is None


def check_broken(name: str) -> str | None:
    """The check with one of the operators broken."""
    from mmtokmerge.kernels.gpu import check as module

    right = getattr(module, name)

    def wrong(*args: Any) -> Any:
        found = right(*args)
        if isinstance(found, Tensor):
            return found.flip(1)
        return found[0], found[1].flip(1)

    setattr(module, name, wrong)
    try:
        return module.first_difference(torch.device("cpu"), torch.float32)
    finally:
        setattr(module, name, right)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("most_similar_triton", "most similar destinations differ"),
        ("match_on_grid", "destinations of a grid differ"),
        ("groups_of_matching", "groups differ"),
        ("mean_of_groups", "means of groups differ"),
        ("spread_onto", "unmerged tokens differ"),
    ],
)
def test_the_check_finds_what_is_wrong(name: str, sentence: str, run: Run) -> None:
    assert sentence in run(check_broken, name)


@pytest.mark.parametrize("channels", [24, 150])
@pytest.mark.parametrize(("hw", "cell", "offset"), GRIDS)
def test_destinations_of_a_grid(
    hw: tuple[int, int], cell: tuple[int, int], offset: tuple[int, int], channels: int, run: Run
) -> None:
    torch.manual_seed(channels)
    x = torch.randn(2, hw[0] * hw[1], channels)
    places = [
        (row * cell[0] + offset[0]) * hw[1] + column * cell[1] + offset[1]
        for row in range(hw[0] // cell[0])
        for column in range(hw[1] // cell[1])
    ]
    scores = F.normalize(x.double(), dim=-1) @ F.normalize(x[:, places].double(), dim=-1).mT
    expected, index = scores.max(-1)
    expected[:, places] = math.inf
    index[:, places] = torch.arange(len(places))
    cosine, best = run(operators.match_on_grid, x, hw, cell, offset)
    torch.testing.assert_close(cosine.double(), expected, atol=5e-7, rtol=0)
    assert torch.equal(best, index)


def by_hand(
    similarity: Tensor, best: Tensor, joined: int, targets: int
) -> tuple[list[list[int]], list[list[int]]]:
    """Groups and sizes one token after the other: of equal cosines the first tokens join."""
    groups, sizes = [], []
    for scores, own in zip(similarity.nan_to_num(math.inf).tolist(), best.tolist()):
        order = sorted(range(len(scores)), key=lambda i: (-min(scores[i], 2.0), i))
        chosen = set(order[:joined])
        row, count = [], targets
        for token, target in enumerate(own):
            row.append(target if token in chosen else count)
            count += token not in chosen
        groups.append(row)
        sizes.append([row.count(group) for group in range(count)])
    return groups, sizes


def number(similarity: Tensor, best: Tensor, joined: int, targets: int, alone: bool) -> Any:
    values = None if alone else similarity.topk(joined, dim=1, sorted=False).values
    count = targets + similarity.shape[1] - joined
    return operators.groups_of_matching(similarity, best, values, targets, count)


@pytest.mark.parametrize(
    ("tokens", "targets", "joined"), [(7, 2, 4), (100, 9, 60), (100, 9, 100), (5000, 40, 3000)]
)
def test_groups(tokens: int, targets: int, joined: int, run: Run) -> None:
    """Ties at the bound, NaN and more than one block of 4,096 tokens."""
    torch.manual_seed(tokens)
    similarity = torch.randint(0, 9, (2, tokens)) / 10 - 0.4
    similarity[:, torch.randperm(tokens)[:targets]] = math.inf
    similarity[0, tokens // 2] = math.nan
    best = torch.randint(0, targets, (2, tokens))
    expected = by_hand(similarity, best, joined, targets)
    for alone in (False, True) if tokens <= switch.MOST_AT_ONCE else (False,):
        groups, sizes = run(number, similarity, best, joined, targets, alone)
        assert (groups.tolist(), sizes.tolist()) == expected


@pytest.mark.parametrize("tokens", [3, 64, 700, 4096])
def test_the_kernel_finds_the_most_similar(tokens: int, run: Run) -> None:
    """At every number that may join, on cosines that are near, negative, zero and equal."""
    torch.manual_seed(tokens)
    similarity = torch.randn(3, tokens) * torch.tensor([[1e-7], [0.3], [1.0]])
    similarity = similarity.clamp(-1, 1)
    similarity[0, : tokens // 3] = 0.0
    similarity[0, tokens // 3 : tokens // 2] = -0.0
    best = torch.zeros(3, tokens, dtype=torch.long)
    for joined in {1, 2, tokens // 3, tokens // 2 + 1, tokens - 1, tokens}:
        groups, sizes = run(number, similarity, best, joined, 1, True)
        expected = run(number, similarity, best, joined, 1, False)
        assert torch.equal(groups, expected[0]) and torch.equal(sizes, expected[1])


def by_loop(x: Tensor, groups: Tensor, sizes: Tensor, weights: Tensor | None) -> Tensor:
    means = torch.zeros(len(x), sizes.shape[1], x.shape[2], dtype=torch.float64)
    for image in range(len(x)):
        for token, group in enumerate(groups[image % len(groups)].tolist()):
            weight = 1 if weights is None else weights[image, token]
            means[image, group] += x[image, token].double() * weight
    counts = sizes.masked_fill(sizes == 0, 1).double()
    return means / counts[..., None]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("groups", [5, 40, 600])
def test_means(groups: int, dtype: torch.dtype, run: Run) -> None:
    """Of one assignment for all images and one for each."""
    torch.manual_seed(groups)
    x = torch.randn(2, 130, 70).to(dtype)
    tolerance = 2 * torch.finfo(dtype).eps
    for rows in (1, 2):
        index = torch.randint(0, groups, (rows, 130))
        sizes = F.one_hot(index, groups).sum(1)
        means = run(operators.mean_of_groups, x, index, sizes, None, groups)
        assert means.dtype == dtype
        expected = by_loop(x, index, sizes, None)
        torch.testing.assert_close(means.double(), expected, atol=tolerance, rtol=tolerance)
    weights = torch.randint(0, 9, (2, 130)).float()
    counts = torch.zeros(2, groups).scatter_add_(1, index, weights)
    means = run(operators.mean_of_groups, x, index, counts, weights, groups)
    expected = by_loop(x, index, counts, weights)
    torch.testing.assert_close(means.double(), expected, atol=4 * tolerance, rtol=tolerance)


def test_groups_that_hold_one_token_are_copied(run: Run) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 70, 20)
    assignment = bipartite_matching(x, (7, 10), rate=0.5, stride=2)
    assert assignment.shared == 15 and assignment.num_groups == 35
    assert (assignment.sizes[:, 15:] == 1).all()
    means = run(operators.mean_of_groups, x, assignment.groups, assignment.sizes, None, 15)
    torch.testing.assert_close(means, assignment.merge(x))


def test_nan_and_infinity_stay_in_their_group(run: Run) -> None:
    x = torch.randn(1, 100, 4)
    x[0, 3, 1], x[0, 97, 2] = math.nan, math.inf
    groups = torch.arange(100)[None] % 7
    sizes = F.one_hot(groups, 7).sum(1)
    means = run(operators.mean_of_groups, x, groups, sizes, None, 7)
    expected = TokenAssignment(groups, sizes).merge(x)
    assert expected[0, 3, 1].isnan() and expected[0, 97 % 7, 2].isinf()
    torch.testing.assert_close(means, expected, equal_nan=True)


def test_a_thousand_halves_are_summed_in_fp32(run: Run) -> None:
    for dtype in (torch.float16, torch.bfloat16):
        x = torch.full((1, 1500, 3), 1.0078125).to(dtype)
        groups = torch.zeros(1, 1500, dtype=torch.long)
        means = run(operators.mean_of_groups, x, groups, torch.tensor([[1500]]), None, 1)
        assert torch.equal(means[0, 0], x[0, 0])


@pytest.mark.parametrize("dtype", DTYPES)
def test_unmerging_in_the_residual(dtype: torch.dtype, run: Run) -> None:
    torch.manual_seed(0)
    y, onto = torch.randn(2, 9, 150).to(dtype), torch.randn(2, 90, 150).to(dtype)
    for rows in (1, 2):
        groups = torch.randint(0, 9, (rows, 90))
        found = run(operators.spread_onto, y, groups, onto)
        index = groups.expand(2, -1)[..., None].expand(-1, -1, 150)
        expected = onto.double() + y.double().gather(1, index)
        tolerance = torch.finfo(dtype).eps
        torch.testing.assert_close(found.double(), expected, atol=tolerance, rtol=tolerance)


def test_nothing_to_do(run: Run) -> None:
    x, groups = torch.zeros(0, 5, 3), torch.zeros(1, 5, dtype=torch.long)
    sizes = torch.tensor([[5]])
    assert run(operators.mean_of_groups, x, groups, sizes, None, 1).shape == (0, 1, 3)
    assert run(operators.spread_onto, torch.zeros(0, 1, 3), groups, x).shape == (0, 5, 3)
    assert run(operators.match_on_grid, x, (1, 5), (1, 2), (0, 0))[0].shape == (0, 5)


def gradients(x: Tensor, groups: Tensor, sizes: Tensor, weights: Tensor | None) -> Tensor:
    x = x.requires_grad_()
    means = operators.mean_of_groups(x, groups, sizes, weights, sizes.shape[1])
    weight = torch.arange(means.numel()).view_as(means) / 100
    return torch.autograd.grad((means * weight).sum(), x)[0]


def test_gradients_of_means(run: Run) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 30, 5)
    groups = torch.randint(0, 6, (1, 30))
    sizes = torch.randint(0, 4, (2, 30))
    plain = TokenAssignment(groups, F.one_hot(groups, 7).sum(1))  # one group is empty
    for weights in (None, sizes):
        own = x.double().requires_grad_()
        means = plain.merge(own, weights)
        expected = torch.autograd.grad(
            (means * torch.arange(means.numel()).view_as(means) / 100).sum(), own
        )[0]
        counts = plain.sizes
        if weights is not None:
            counts = torch.zeros(2, 7).scatter_add_(1, groups.expand(2, -1), weights.float())
        given = None if weights is None else weights.float()
        found = run(gradients, x, groups, counts, given)
        torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)


def opcheck() -> bool:
    ops = torch.ops.mmtokmerge
    x, groups, sizes = torch.randn(2, 12, 4), torch.arange(12)[None] % 3, torch.tensor([[4, 4, 4]])
    similarity, best = operators.match_on_grid(x, (3, 4), (1, 2), (0, 0))
    values = similarity.topk(8, dim=1).values
    for operator, args in (
        (ops.match_on_grid, (x, [3, 4, 1, 2, 0, 0], torch.float32)),
        (ops.groups_of_matching, (similarity, best, values, 6, 10)),
        (ops.mean_of_groups, (x.clone().requires_grad_(), groups, sizes, None, 3)),
        (ops.spread_onto, (torch.randn(2, 3, 4), groups, torch.randn(2, 12, 4))),
    ):
        torch.library.opcheck(operator.default, args)
    return True


def test_the_operators_are_registered_well(run: Run) -> None:
    assert run(opcheck)


def whole_block(merging: Any, dtype: torch.dtype, batch: int) -> tuple[Tensor, Tensor]:
    """A block of MiT++ by torch alone, and with every kernel, as on a GPU."""
    import mmtokmerge.merging.assignment as assignment
    import mmtokmerge.merging.bipartite as bipartite
    from mmtokmerge.layers import EfficientAttention
    from mmtokmerge.merging import read_merging

    torch.manual_seed(0)
    attention = EfficientAttention(32, 2, 1, read_merging([merging] * 4)[0]).to(dtype).eval()
    x = torch.randn(batch, 12 * 20, 32).to(dtype)
    onto = torch.randn_like(x)
    with torch.no_grad():
        expected = attention(x, (12, 20))[0] + onto
        with pytest.MonkeyPatch.context() as patch:
            for module in (assignment, bipartite):
                patch.setattr(module, "use_kernels", lambda tokens: True)
            found = attention(x, (12, 20), onto=onto)[0]
    return found, expected


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(
    "merging",
    [
        dict(r_q=0.8, q_stride=4),
        dict(r_kv=0.6, kv_stride=2),
        dict(q_mode="n2d", r_kv=0.7, kv_stride=4, proportional=True),
        dict(q_mode="n2d", unmerge="bilinear"),
        dict(r_q=0.5, r_kv=0.5, match="local", destination="centre"),
    ],
)
def test_a_block_is_the_same_by_kernels(merging: dict[str, Any], batch: int, run: Run) -> None:
    found, expected = run(whole_block, merging, torch.float32, batch)
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=2e-5)


KERNELS = {
    "groups_kernel": dict(similarity_ptr="*fp32", best_ptr="*i64", values_ptr="*fp32"),
    "groups_kernel alone": dict(similarity_ptr="*fp32", best_ptr="*i64"),
    "sum_kernel": dict(x_ptr="*bf16", weights_ptr="*fp32", sums_ptr="*fp32", means_ptr="*bf16"),
    "divide_kernel": dict(sums_ptr="*fp32", means_ptr="*bf16"),
    "spread_kernel": dict(y_ptr="*bf16", onto_ptr="*bf16", out_ptr="*bf16"),
}
CONSTANTS = dict(BLOCK=4096, BLOCK_N=64, BLOCK_C=64)


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("name", KERNELS)
def test_compiles_for_gpus_without_one(
    name: str, capability: int, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The interpreter takes what the compiler may refuse, and has no limits of memory."""
    triton = pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from mmtokmerge.kernels.gpu import groups, means

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    kernel = getattr(groups if "groups" in name else means, name.split()[0])
    pointers = dict(groups_ptr="*i64", sizes_ptr="*i64", **KERNELS[name])
    names = kernel.arg_names
    constants = {key: value for key, value in CONSTANTS.items() if key in names}
    if name.endswith("alone"):
        constants["values_ptr"] = None
    signature = {
        key: "constexpr" if key in constants else pointers.get(key, "i32") for key in names
    }
    source = ASTSource(
        kernel, signature, {(names.index(key),): value for key, value in constants.items()}
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled = triton.compile(
            source, target=GPUTarget("cuda", capability, 32), options=dict(num_warps=4)
        )
    assert compiled.metadata.shared <= 99 * 1024  # the least of the cards from Ampere on


def test_operations_are_counted_as_torchs_are() -> None:
    """A counter of operations sees the products inside the kernels."""
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.utils.flop_counter import FlopCounterMode

    if torch.cuda.is_available():
        pytest.skip("a card answers for itself")
    pytest.importorskip("triton")
    counts = []
    for setting in ("auto", "0"):
        with pytest.MonkeyPatch.context() as patch, FakeTensorMode():
            patch.setenv("MMTOKMERGE_TRITON", setting)
            x = torch.empty(2, 63, 16, device="cuda")
            with FlopCounterMode(display=False) as counter:
                bipartite_matching(x, (7, 9), rate=0.5, stride=2)
                bipartite_matching(x, count=9)
            counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] == 2 * 2 * 16 * (63 * 12 + 32 * 31)


def test_fake_tensors_of_a_card_take_the_kernels() -> None:
    """What counts or sizes a forward on a machine without a card sees what a card would run."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    if torch.cuda.is_available():
        pytest.skip("a card answers for itself")
    pytest.importorskip("triton")
    from mmtokmerge.kernels.gpu.switch import use_kernels

    with FakeTensorMode():
        x = torch.empty(2, 48, 16, device="cuda", dtype=torch.bfloat16)
        assert use_kernels(x)
        found = bipartite_matching(x, (6, 8), rate=0.5, stride=2)
        assert found.merge(x).shape == (2, 24, 16) and found.groups.is_cuda
        pooled = neighbour_pooling((6, 8), kernel=2, device="cuda")
        assert pooled.groups is neighbour_pooling((6, 8), kernel=2, device="cuda").groups


def words_of_tf32() -> list[str]:
    """How products are taken where TF32 was allowed by torch's newer word, which reads once."""
    from mmtokmerge.kernels.gpu.best import EXACT, precision_of

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
        before = torch.backends.cuda.matmul.fp32_precision
        torch.backends.cuda.matmul.fp32_precision = "tf32"
        card = torch.device("cuda")
        try:
            found = [precision_of(card, dtype) for dtype in (torch.float32, torch.bfloat16)]
            found.append(precision_of(card, torch.float32, exact=True))
            token = EXACT.set(True)
            found.append(precision_of(card, torch.float32))
            EXACT.reset(token)
        finally:
            torch.backends.cuda.matmul.fp32_precision = before
    return found


def test_tf32_is_read_by_the_word_that_torch_has_for_it(run: Run) -> None:
    if not hasattr(torch.backends.cuda.matmul, "fp32_precision"):
        pytest.skip("this torch has the older setting alone")
    assert run(words_of_tf32) == ["tf32", "tf32x3", "tf32x3", "tf32x3"]


def test_no_image_has_gradients_too(run: Run) -> None:
    x, groups, sizes = (
        torch.zeros(0, 6, 3),
        torch.zeros(1, 6, dtype=torch.long),
        torch.tensor([[6]]),
    )
    assert run(gradients, x, groups, sizes, None).shape == (0, 6, 3)


def unmerge_onto_one() -> tuple[Tensor, Tensor]:
    """A branch of two images onto one, which torch broadcasts."""
    import mmtokmerge.merging.assignment as assignment

    y, onto = torch.randn(2, 3, 4), torch.randn(1, 6, 4)
    groups = TokenAssignment(torch.arange(6)[None] % 3, torch.tensor([[2, 2, 2]]))
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(assignment, "use_kernels", lambda tokens: True)
        return groups.unmerge_onto(y, onto), onto + y[:, [0, 1, 2, 0, 1, 2]]


def test_what_the_kernel_cannot_take_is_torchs(run: Run) -> None:
    found, expected = run(unmerge_onto_one)
    torch.testing.assert_close(found, expected)


def check_with_modes() -> tuple[str | None, int]:
    """The check under a default device, a counter and a mode of tensors without memory."""
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.utils.flop_counter import FlopCounterMode

    from mmtokmerge.kernels.gpu import switch
    from mmtokmerge.kernels.gpu.check import _compare

    said: list[str | None] = []

    def look(device: torch.device, dtype: torch.dtype) -> str | None:
        said.append(_compare(device, dtype, 1, 32, (5, 6), (2, 2), 20))
        return said[-1]

    with FlopCounterMode(display=False) as counter, FakeTensorMode():
        switch.agree(torch.device("cpu"), torch.float32, look)
    return said[0], counter.get_total_flops()


def test_the_check_sees_no_mode_and_no_counter_sees_it(run: Run) -> None:
    assert run(check_with_modes) == (None, 0)
