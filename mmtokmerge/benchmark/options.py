"""What a benchmark measures, checked before anything is built."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mmtokmerge.benchmark.runtimes import COMPILE, TORCH, check_runtimes
from mmtokmerge.checks import one_of
from mmtokmerge.errors import InputError

Shape = tuple[int, int]

DTYPES = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "int8": torch.float32,  # of the images; the exported file computes in it
}
PARTS = ("model", "encoder", "head")
DEVICES = ("cpu", "cuda")
# Segformer++, Table V, as (height, width).
TABLE5: tuple[Shape, ...] = ((512, 512), (640, 640), (1024, 1024), (1024, 2048), (2160, 3840))
MIN_SIDE = 32


@dataclass(frozen=True)
class Settings:
    """One benchmark.

    Args:
        shapes: Images ``(H, W)`` in pixels.
        batch_size: Images of a step; None looks for each model's best at each shape.
        dtype: 'fp32', 'fp16' or 'bf16': the model and its input are converted for inference;
            training keeps fp32 weights under autocast; 'int8' of an exported file.
        device: 'cpu' or 'cuda'.
        part: 'model' (encoder and head, up to the logits at the head's own resolution), 'encoder'
            or 'head'.
        train: Time a training step (forward, loss, backward, optimizer) instead of inference.
        compile: Run through ``torch.compile``.
        cuda_graph: Capture inference once and replay it, without a launch for each operation.
        limit: Say how near merging comes to what the unmerged encoder's parts allow.
        kept: Fractions of the patches that remain after each reducer with a threshold, in the order
            in which they act; thresholds are set so for each input. Empty leaves them.
        runs: Interleaved rounds.
        warmup: Steps of each model before the rounds.
        threads: CPU threads of torch; None leaves them as they are.
        seed: Random seed for weights, images and labels.
        runtimes: What runs every model, see :mod:`mmtokmerge.benchmark.runtimes`.

    Raises:
        InputError: If a value is unknown, out of range or cannot work on this machine.
    """

    shapes: tuple[Shape, ...]
    batch_size: int | None = 1
    dtype: str = "fp32"
    device: str = "cpu"
    part: str = "model"
    train: bool = False
    compile: bool = False
    cuda_graph: bool = False
    limit: bool = False
    kept: tuple[float, ...] = ()
    runs: int = 20
    warmup: int = 3
    threads: int | None = None
    seed: int = 0
    runtimes: tuple[str, ...] = (TORCH,)

    @property
    def compiles(self) -> bool:
        """Whether torch compiles a model."""
        return self.compile or COMPILE in self.runtimes

    def __post_init__(self) -> None:
        one_of("dtype", self.dtype, tuple(DTYPES))
        one_of("device", self.device, DEVICES)
        one_of("part", self.part, PARTS)
        for name in ("batch_size", "runs", "warmup", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name}={value} must be at least 1.")
        for height, width in self.shapes:
            if min(height, width) < MIN_SIDE:
                raise InputError(
                    f"shape {height} {width} is too small: both sides must be at least "
                    f"{MIN_SIDE} pixels, the stride of the last stage."
                )
        if self.device == "cuda" and not torch.cuda.is_available():
            raise InputError("device='cuda' needs a GPU that torch can use, here is none.")
        check_runtimes(self.runtimes, self.dtype, self.part, self.device)
        if self.runtimes != (TORCH,) and (
            self.train or self.limit or self.cuda_graph or self.compile
        ):
            raise InputError(
                "--runtime times inference alone, so it does not go with --train, --limit, "
                "--cuda-graph and --compile (its own name is compile)."
            )
        if self.train and self.part != "model":
            raise InputError(f"part={self.part!r} cannot be trained alone, train takes 'model'.")
        if self.train and self.device == "cpu" and self.dtype == "fp16":
            raise InputError("dtype='fp16' cannot be trained on a CPU, allowed are fp32 and bf16.")
        if self.cuda_graph and self.device != "cuda":
            raise InputError("--cuda-graph needs --device cuda: a CPU has no CUDA graphs.")
        if self.cuda_graph and self.train:
            raise InputError("--cuda-graph captures inference, so it cannot go with --train.")
        if self.limit and (self.train or self.part == "head"):
            raise InputError(
                "--limit is of inference with the encoder, so it goes with --part encoder or model "
                "and not with --train."
            )
        if any(not 0 < fraction <= 1 for fraction in self.kept) or any(
            after > before for before, after in zip(self.kept, self.kept[1:])
        ):
            shown = " ".join(map(str, self.kept))
            raise InputError(f"--kept {shown} must be fractions above 0, up to 1, that never rise.")


def read_shapes(words: list[list[str]]) -> tuple[Shape, ...]:
    """Read ``--shape`` as it was given, each time ``H W`` or ``table5``.

    Raises:
        InputError: If it is neither.
    """
    shapes: list[Shape] = []
    for group in words:
        if group == ["table5"]:
            shapes.extend(TABLE5)
        elif len(group) == 2 and all(word.isdigit() for word in group):
            shapes.append((int(group[0]), int(group[1])))
        else:
            given = " ".join(group)
            raise InputError(f"--shape {given!r} must be two whole numbers H W or table5.")
    return tuple(dict.fromkeys(shapes))


def read_batch_size(word: str) -> int | None:
    """Read ``--batch-size``: a whole number, or 'auto', which is None.

    Raises:
        InputError: If it is neither.
    """
    if word == "auto":
        return None
    if not word.isdigit():
        raise InputError(f"--batch-size {word!r} must be a whole number or auto.")
    return int(word)
