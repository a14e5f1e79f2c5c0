"""The Triton kernel, in Triton's interpreter, against torch; and when it is taken."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmtokmerge.errors import InputError
from mmtokmerge.kernels import similarity
from mmtokmerge.kernels.gpu import operators, switch
from mmtokmerge.kernels.gpu.check import first_difference
from mmtokmerge.kernels.gpu.layer_check import first_difference_of_layers
from mmtokmerge.kernels.gpu.operators import most_similar_triton
from mmtokmerge.kernels.gpu.switch import pays, read_switch, use_kernels, use_triton
from mmtokmerge.kernels.similarity import most_similar

REPO = Path(__file__).resolve().parents[2]
Found = tuple[Tensor, Tensor]
Run = Callable[..., Found]

# Tokens, destinations, channels: below, at and above the blocks of 16 to 128, 32 and 64.
SIZES = [
    (1, 1, 1, 1),
    (2, 37, 70, 33),
    (3, 5, 3, 64),
    (1, 130, 33, 128),
    (1, 17, 129, 200),
    (2, 9, 2, 1024),
    (1, 16, 64, 64),
]


@pytest.fixture(scope="module")
def interpret(worker: ProcessPoolExecutor) -> Run:
    """The kernel in that process."""

    def run(*args: Tensor | None) -> Found:
        return worker.submit(most_similar_triton, *args).result()

    return run


def cosines(x: Tensor, destinations: Tensor) -> Tensor:
    """All scores ``(B, N, D)`` in fp64."""
    return F.normalize(x.double(), dim=-1) @ F.normalize(destinations.double(), dim=-1).mT


def interpreted(x: Tensor, dtype: torch.dtype) -> Tensor:
    """``x`` in ``dtype`` as the interpreter rounds it: towards zero if bf16, to nearest on GPUs."""
    if dtype != torch.bfloat16:
        return x.to(dtype)
    return (x.float().contiguous().view(torch.int32) & -65536).view(torch.float32).to(dtype)


def assert_found(found: Found, scores: Tensor, tolerance: float) -> None:
    """The cosine is the best of ``scores (B, N, D)``, and the index is one that gives it.

    A destination's channel may round to either neighbour where lengths differ in the last bit.
    """
    cosine, index = found
    best = scores.amax(-1)
    chosen = scores.gather(2, index[:, :, None])[:, :, 0]
    torch.testing.assert_close(cosine.double(), best.clamp(max=1), atol=tolerance, rtol=0)
    torch.testing.assert_close(chosen, best, atol=tolerance, rtol=0)


@pytest.mark.parametrize("size", SIZES)
def test_equals_torch_in_fp32(size: tuple[int, int, int, int], interpret: Run) -> None:
    torch.manual_seed(sum(size))
    batch, tokens, targets, channels = size
    x, destinations = torch.randn(batch, tokens, channels), torch.randn(batch, targets, channels)
    cosine, index = interpret(x, destinations)
    expected, expected_index = most_similar(x.double(), destinations.double())
    assert (cosine.dtype, index.dtype) == (torch.float32, torch.int64)
    torch.testing.assert_close(cosine.double(), expected, atol=5e-7, rtol=0)
    assert torch.equal(index, expected_index)


@pytest.mark.parametrize(("dtype", "step"), [(torch.float16, 2**-11), (torch.bfloat16, 2**-8)])
@pytest.mark.parametrize("size", SIZES)
def test_half_precision_rounds_nothing(
    size: tuple[int, int, int, int], dtype: torch.dtype, step: float, interpret: Run
) -> None:
    torch.manual_seed(sum(size))
    batch, tokens, targets, channels = size
    x = torch.randn(batch, tokens, channels).to(dtype)
    destinations = torch.randn(batch, targets, channels).to(dtype)
    cosine, index = interpret(x, destinations)
    assert_found((cosine, index), cosines(x, destinations), 1e-6)
    assert (cosine - most_similar(x, destinations)[0]).abs().max() < 2 * step


def test_random_sizes(interpret: Run) -> None:
    torch.manual_seed(0)
    for _ in range(12):
        batch, tokens, targets, channels = (
            int(torch.randint(low, high, ())) for low, high in ((1, 3), (1, 70), (1, 150), (2, 90))
        )
        x, destinations = (
            torch.randn(batch, tokens, channels),
            torch.randn(batch, targets, channels),
        )
        absent = torch.rand(batch, targets) < 0.3 if tokens % 2 else None
        found = interpret(x, destinations, absent)
        expected = most_similar(x.double(), destinations.double(), absent)
        torch.testing.assert_close(found[0].double(), expected[0], atol=5e-7, rtol=0)
        assert torch.equal(found[1], expected[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_first_of_equal_destinations_wins(dtype: torch.dtype, interpret: Run) -> None:
    """Signs of 16 channels: lengths of 4 and sums are exact, so equal rows give equal scores."""
    torch.manual_seed(0)
    kinds = torch.randint(0, 2, (5, 16)) * 2.0 - 1
    for targets in (10, 200):  # one tile, and equal rows in tiles and columns of any order
        order = torch.randint(0, 5, (1, targets))
        x = (torch.randint(0, 2, (1, 40, 16)) * 2.0 - 1).to(dtype)
        destinations = kinds[order].to(dtype)
        scores = x.double() @ destinations.double().mT
        first = (scores == scores.amax(-1, keepdim=True)).int().argmax(-1)
        cosine, index = interpret(x, destinations)
        assert torch.equal(index, first)
        assert torch.equal(cosine.double(), scores.amax(-1) / 16)
        assert torch.equal(index, most_similar(x, destinations)[1])


def test_rows_of_zeros(interpret: Run) -> None:
    x = torch.tensor([[[0.0, 0.0], [-1.0, 0.0], [3.0, 4.0]]])
    destinations = torch.tensor([[[5.0, 0.0], [0.0, 0.0], [0.0, 0.0]]])
    cosine, index = interpret(x, destinations)
    assert index.tolist() == [[0, 1, 0]]
    torch.testing.assert_close(cosine, torch.tensor([[0.0, 0.0, 0.6]]))


def test_very_short_and_very_long_rows(interpret: Run) -> None:
    torch.manual_seed(0)
    x, destinations = torch.randn(1, 12, 8), torch.randn(1, 20, 8)
    lengths = torch.tensor([1e-9, 1.0, 1e9])[torch.arange(20) % 3, None]
    cosine, index = interpret(x * lengths[:12], destinations * lengths)
    expected, expected_index = most_similar(x.double(), destinations.double())
    torch.testing.assert_close(cosine.double(), expected, atol=5e-7, rtol=0)
    assert torch.equal(index, expected_index)


def test_a_cosine_is_at_most_one(interpret: Run) -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 90, 70)
    cosine, index = interpret(x, x)
    assert index.tolist() == [list(range(90))]
    assert cosine.max() <= 1
    torch.testing.assert_close(cosine, torch.ones(1, 90))


def test_absent_destinations(interpret: Run) -> None:
    torch.manual_seed(0)
    x, destinations = torch.randn(3, 20, 8), torch.randn(3, 70, 8)
    absent = torch.rand(3, 70) < 0.5
    absent[1] = True
    absent[2] = True
    absent[2, 69] = False
    cosine, index = interpret(x, destinations, absent)
    scores = cosines(x, destinations).masked_fill(absent[:, None], -math.inf)
    assert torch.equal(index, scores.argmax(-1))
    torch.testing.assert_close(cosine.double(), scores.amax(-1), atol=5e-7, rtol=0)
    assert cosine[1].eq(-math.inf).all() and index[1].eq(0).all()
    assert index[2].eq(69).all()


def test_nan_stays_with_its_token(interpret: Run) -> None:
    x = torch.tensor([[[1.0, math.nan], [1.0, 2.0]]])
    destinations = torch.tensor([[[math.nan, 1.0], [1.0, 0.0], [0.0, 1.0]]])
    cosine, index = interpret(x, destinations)
    assert cosine[0, 0].isnan() and 0 <= index[0, 0] < 3
    assert index[0, 1] == 2
    torch.testing.assert_close(cosine[0, 1], torch.tensor(2 / math.sqrt(5)))


def strided(grid: Tensor) -> tuple[Tensor, Tensor]:
    """Every other token as rows, the rest as destinations, of channels-first maps."""
    tokens = grid.flatten(2).transpose(1, 2)  # (B, N, C), channels strided
    return tokens[:, 1::2], tokens[:, ::2]


def run_strided(grid: Tensor) -> Found:
    return most_similar_triton(*strided(grid))


def test_any_strides(worker: ProcessPoolExecutor) -> None:
    torch.manual_seed(0)
    grid = torch.randn(2, 40, 7, 9)
    cosine, index = worker.submit(run_strided, grid).result()
    expected, expected_index = most_similar(*(part.double() for part in strided(grid)))
    torch.testing.assert_close(cosine.double(), expected, atol=5e-7, rtol=0)
    assert torch.equal(index, expected_index)


def test_nothing_to_compare(interpret: Run) -> None:
    for batch, tokens in ((0, 5), (2, 0)):
        cosine, index = interpret(torch.randn(batch, tokens, 4), torch.randn(batch, 3, 4))
        assert cosine.shape == index.shape == (batch, tokens)


def run_autocast(x: Tensor, destinations: Tensor) -> Found:
    with torch.autocast("cpu", torch.bfloat16):
        return most_similar_triton(x, destinations)


def test_autocast_multiplies_in_its_type(worker: ProcessPoolExecutor, interpret: Run) -> None:
    torch.manual_seed(0)
    x, destinations = torch.randn(1, 30, 48), torch.randn(1, 40, 48)
    cosine, index = worker.submit(run_autocast, x, destinations).result()
    rounded = (interpreted(each, torch.bfloat16).double() for each in (x, destinations))
    scores = next(rounded) @ next(rounded).mT
    scores = scores / torch.linalg.vector_norm(x.double(), dim=-1, keepdim=True)
    scores = scores / torch.linalg.vector_norm(destinations.double(), dim=-1)[:, None]
    assert cosine.dtype == torch.float32
    assert_found((cosine, index), scores, 2**-12)
    assert (cosine - interpret(x, destinations)[0]).abs().max() > 2**-11


def run_compiled(sizes: list[tuple[int, int]]) -> list[tuple[bool, int]]:
    """Whether a compiled step equals the eager one, and graphs so far, for each N and D."""
    graphs = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., object]:
        from torch._dynamo.backends.debugging import aot_eager

        graphs.append(graph)
        return aot_eager(graph, inputs)

    def step(x: Tensor, destinations: Tensor, absent: Tensor) -> Tensor:
        cosine, index = most_similar_triton(2 * x, destinations, absent)
        return cosine * destinations.gather(1, index[:, :, None].expand(-1, -1, 6)).sum(-1)

    compiled = torch.compile(step, backend=backend, fullgraph=True, dynamic=True)
    results = []
    for tokens, targets in sizes:
        args = torch.randn(2, tokens, 6), torch.randn(2, targets, 6), torch.rand(2, targets) < 0.2
        results.append((torch.equal(compiled(*args), step(*args)), len(graphs)))
    return results


def test_compiles_whole_with_dynamic_sizes(worker: ProcessPoolExecutor) -> None:
    results = worker.submit(run_compiled, [(20, 7), (33, 70), (50, 12)]).result()
    assert results == [(True, 1)] * 3


def test_the_operator_is_registered_well(worker: ProcessPoolExecutor) -> None:
    assert worker.submit(run_opcheck).result()


def run_opcheck() -> bool:
    args = torch.randn(2, 9, 6), torch.randn(2, 4, 6)
    for absent in (None, torch.rand(2, 4) < 0.5):
        torch.library.opcheck(
            torch.ops.mmtokmerge.most_similar.default, (*args, absent, torch.float32)
        )
    return True


@pytest.mark.parametrize(
    ("capability", "dtype", "channels"),
    [(80, torch.float32, 64), (80, torch.bfloat16, 128), (90, torch.float32, 320)],
)
def test_compiles_for_gpus_without_one(
    capability: int,
    dtype: torch.dtype,
    channels: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The interpreter takes what the compiler may refuse, and has no limits of memory."""
    triton = pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from mmtokmerge.kernels.gpu.best import TYPES, best_kernel, blocks_for

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    cut = blocks_for(1, 16384, channels, dtype)
    name = {torch.float32: "*fp32", torch.bfloat16: "*bf16"}[dtype]
    signature = dict(x_ptr=name, target_ptr=name, length_ptr="*fp32", absent_ptr="*u8")
    signature.update(similarity_ptr="*fp32", index_ptr="*i64", epsilon="fp32")
    signature.update(dict.fromkeys(("num_tokens", "num_targets", "num_channels"), "i32"))
    for prefix in ("", "target_"):
        signature.update(dict.fromkeys((f"{prefix}stride_b", f"{prefix}stride_d"), "i32"))
    signature["stride_n"] = "i32"
    numbers = ("width", "rows", "columns", "cell_y", "cell_x", "offset_y", "offset_x")
    signature.update(dict.fromkeys(numbers, "i32"))
    constants = dict(stride_c=1, target_stride_c=1, ON_GRID=True, DTYPE=TYPES[dtype])
    constants.update(WHOLE=cut.whole, EVEN=True, PRECISION="tf32x3", UPCAST=False)
    constants.update(BLOCK_N=cut.tokens, BLOCK_D=cut.targets, BLOCK_C=cut.channels)
    signature.update(dict.fromkeys(constants, "constexpr"))
    places = {name: index for index, name in enumerate(best_kernel.arg_names)}
    source = ASTSource(
        best_kernel,
        {name: signature[name] for name in places},
        {(places[name],): value for name, value in constants.items()},
        {(places["x_ptr"],): [["tt.divisibility", 16]]},
    )
    target = GPUTarget("cuda", capability, 32)
    options = dict(num_warps=cut.warps, num_stages=cut.stages)
    compiled = triton.compile(source, target=target, options=options)
    assert compiled.metadata.shared <= 99 * 1024  # the least of the cards from Ampere on
    assert "mma" in compiled.asm["ptx"]


def gpu_tokens(**changes: object) -> SimpleNamespace:
    """What :func:`use_triton` asks of a tensor; this machine may have no GPU to hold one."""
    facts = dict(is_cuda=True, dtype=torch.bfloat16, requires_grad=False, shape=(2, 10000, 64))
    return SimpleNamespace(**{**facts, "device": torch.device("cuda", 0), **changes})


@pytest.fixture
def ampere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(major=8))
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(switch, "HAS_TRITON", True)
    monkeypatch.setattr(switch, "_runs_on", lambda device, dtype, kind="merging": True)
    monkeypatch.setenv("MMTOKMERGE_TRITON", "auto")


@pytest.mark.usefixtures("ampere")
def test_on_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MMTOKMERGE_TRITON")
    assert use_triton(gpu_tokens(), gpu_tokens(shape=(2, 500, 64)))


@pytest.mark.usefixtures("ampere")
def test_off_where_torch_must_be_deterministic() -> None:
    torch.use_deterministic_algorithms(True)
    try:
        assert not use_kernels(gpu_tokens())
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("ampere")
def test_taken_on_a_gpu() -> None:
    assert use_triton(gpu_tokens(), gpu_tokens(shape=(2, 500, 64)))


@pytest.mark.usefixtures("ampere")
@pytest.mark.parametrize("switch", ["1", "auto"])
@pytest.mark.parametrize(
    "changes", [dict(is_cuda=False), dict(dtype=torch.float64), dict(requires_grad=True)]
)
def test_left_to_torch(
    changes: dict[str, object], switch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MMTOKMERGE_TRITON", switch)
    x = gpu_tokens(**changes)
    assert not use_triton(x, x)
    assert use_triton(gpu_tokens(), gpu_tokens())


@pytest.mark.usefixtures("ampere")
def test_a_gradient_that_nobody_asks_for() -> None:
    x = gpu_tokens(requires_grad=True)
    with torch.no_grad():
        assert use_triton(x, x)


@pytest.fixture
def a_card(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which torch sees a card, and nothing has been checked yet."""
    monkeypatch.setattr(switch, "_has_card", lambda: True)
    monkeypatch.setattr(switch, "_is_capturing", lambda: False)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(major=8))
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(switch, "HAS_TRITON", True)
    monkeypatch.setattr(switch, "_CHECKED", {})


@pytest.mark.usefixtures("a_card")
def test_older_cards_are_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(major=7))
    assert not use_triton(gpu_tokens(), gpu_tokens())


@pytest.mark.usefixtures("a_card")
def test_checked_once_for_each_device_and_type(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(switch, "agree", lambda *facts: asked.append(facts) or True)
    for _ in range(3):
        assert use_kernels(gpu_tokens())
        assert use_kernels(gpu_tokens(dtype=torch.float32))
        assert use_kernels(gpu_tokens(), switch.LAYERS)
    device = torch.device("cuda", 0)
    assert asked == [
        (device, torch.bfloat16, first_difference),
        (device, torch.float32, first_difference),
        (device, torch.bfloat16, first_difference_of_layers),
    ]


@pytest.mark.usefixtures("a_card")
def test_no_check_while_a_graph_is_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(switch, "agree", lambda *facts: True)
    monkeypatch.setattr(switch, "_is_capturing", lambda: True)
    assert not use_kernels(gpu_tokens())
    monkeypatch.setattr(switch, "_is_capturing", lambda: False)
    assert use_kernels(gpu_tokens())


@pytest.mark.usefixtures("a_card")
def test_a_compiler_asks_once_and_records_nothing_of_the_check(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []
    monkeypatch.setattr(switch, "_is_ampere", lambda device: True)
    monkeypatch.setattr(switch, "agree", lambda *facts: asked.append(facts) or True)

    def step(x: Tensor) -> Tensor:
        return x + 1 if switch._runs_on(x.device, x.dtype) else x - 1

    compiled = torch.compile(step, backend="eager", fullgraph=True)
    assert compiled(torch.zeros(2)).tolist() == compiled(torch.zeros(2)).tolist() == [1, 1]
    assert asked == [(torch.device("cpu"), torch.float32, first_difference)]


def test_a_kernel_that_differs_is_left_alone_with_one_warning() -> None:
    device = torch.device("cpu")

    def broken(*facts: object) -> str:
        raise RuntimeError("ptxas died")

    with pytest.warns(UserWarning, match="do not agree.*the groups differ"):
        assert not switch.agree(device, torch.float32, lambda *facts: "the groups differ")
    with pytest.warns(UserWarning, match="RuntimeError: ptxas died"):
        assert not switch.agree(device, torch.float32, broken)
    assert switch.agree(device, torch.float32, lambda *facts: None)


@pytest.mark.usefixtures("ampere")
def test_the_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    wide = gpu_tokens(shape=(2, 10000, 1024))
    assert not use_triton(wide, wide)
    monkeypatch.setenv("MMTOKMERGE_TRITON", "1")
    assert use_triton(wide, wide)
    monkeypatch.setenv("MMTOKMERGE_TRITON", "0")
    assert not use_triton(gpu_tokens(), gpu_tokens())


def test_a_switch_that_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in ("yes", "", "2"):
        monkeypatch.setenv("MMTOKMERGE_TRITON", value)
        with pytest.raises(InputError, match=r"MMTOKMERGE_TRITON=.* is unknown, allowed are 0, 1"):
            read_switch()
        with pytest.raises(InputError, match="is unknown"):
            use_triton(torch.zeros(1, 2, 3), torch.zeros(1, 2, 3))


@pytest.mark.usefixtures("ampere")
def test_without_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(switch, "HAS_TRITON", False)
    assert not use_triton(gpu_tokens(), gpu_tokens())
    monkeypatch.setenv("MMTOKMERGE_TRITON", "1")
    with pytest.raises(InputError, match="Triton is not installed"):
        use_triton(gpu_tokens(), gpu_tokens())


def test_sizes_that_pay() -> None:
    assert pays(1024, 256, 64)
    assert pays(65536, 16384, 64)
    assert not pays(65536, 16384, 1024)
    assert not pays(1024, 4096, 512)  # few programs, each with 512 tiles


@pytest.mark.parametrize(
    ("x", "destinations", "absent", "sentence"),
    [
        ((1, 2, 3), (1, 2, 4), None, r"destinations must be \(1, D, 3\)"),
        ((1, 2, 3), (2, 2, 3), None, r"destinations must be \(1, D, 3\)"),
        ((1, 2, 3), (1, 0, 3), None, "with D at least 1"),
        ((1, 2, 3), (1, 4, 3), (1, 3), r"absent must be \(1, 4\) bool"),
    ],
)
def test_shapes_that_do_not_fit(
    x: tuple[int, ...],
    destinations: tuple[int, ...],
    absent: tuple[int, ...] | None,
    sentence: str,
) -> None:
    mask = None if absent is None else torch.zeros(absent, dtype=torch.bool)
    with pytest.raises(InputError, match=sentence):
        most_similar_triton(torch.zeros(x), torch.zeros(destinations), mask)


def test_types_that_do_not_fit() -> None:
    x = torch.zeros(1, 2, 3)
    with pytest.raises(InputError, match=r"one type, fp32, fp16 or bf16, got torch.float64"):
        most_similar_triton(x.double(), x.double())
    with pytest.raises(InputError, match=r"got torch.float32 and torch.float16"):
        most_similar_triton(x, x.half())
    with pytest.raises(InputError, match=r"got \(1, 2\) torch.int64"):
        most_similar_triton(x, x, torch.zeros(1, 2, dtype=torch.long))


def test_cpu_tensors_need_the_interpreter() -> None:
    pytest.importorskip("triton")
    x = torch.zeros(1, 2, 3)
    with pytest.raises(InputError, match="CUDA tensors, got one on cpu"):
        most_similar_triton(x, x)


def test_the_same_least_length_as_torch() -> None:
    assert operators.EPSILON == similarity.EPSILON


def test_imports_without_triton() -> None:
    code = (
        "import sys; sys.modules['triton'] = None\n"
        "import mmtokmerge.kernels.gpu.operators, mmtokmerge.kernels.gpu.switch as module, torch\n"
        "x = torch.zeros(1, 2, 3)\n"
        "assert not module.use_triton(x, x)\n"
        "assert 'mmtokmerge.kernels.gpu.best' not in sys.modules"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_benchmark_says_that_there_is_no_gpu() -> None:
    script = REPO / "benchmarks" / "matching_gpu.py"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(script), "--shape", "512", "512"]
    run = subprocess.run(command, cwd=REPO, capture_output=True, text=True, env=environment)
    assert run.returncode == 1
    assert run.stderr.strip().splitlines()[-1] == (
        "error: matching_gpu.py times GPU kernels, but torch finds no CUDA device here."
    )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("size", [*SIZES, (2, 4096, 256, 320), (1, 16384, 1024, 64)])
def test_on_a_gpu(size: tuple[int, int, int, int], dtype: torch.dtype) -> None:
    pytest.importorskip("triton")
    torch.manual_seed(sum(size))
    batch, tokens, targets, channels = size
    x = torch.randn(batch, tokens, channels, device="cuda").to(dtype)
    destinations = torch.randn(batch, targets, channels, device="cuda").to(dtype)
    absent = torch.rand(batch, targets, device="cuda") < 0.1
    absent[:, 0] = False
    cosine, index = most_similar_triton(x, destinations, absent)
    scores = F.normalize(x.double(), dim=-1) @ F.normalize(destinations.double(), dim=-1).mT
    scores = scores.masked_fill(absent[:, None], -math.inf)
    assert_found((cosine, index), scores, 3e-6)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_choice_compiles_whole_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    monkeypatch.setenv("MMTOKMERGE_TRITON", "1")

    def step(x: Tensor, destinations: Tensor) -> Found:
        if not use_triton(x, destinations):
            raise RuntimeError("torch was taken")
        return most_similar_triton(x, destinations)

    x, destinations = torch.randn(2, 300, 64).cuda(), torch.randn(2, 50, 64).cuda()
    compiled = torch.compile(step, fullgraph=True, dynamic=True)
    assert torch.equal(compiled(x, destinations)[1], step(x, destinations)[1])
