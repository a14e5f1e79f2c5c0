"""One setting of a network on real images: mIoU, FLOPs, tokens kept, speed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from statistics import fmean, median
from typing import Any

import torch
from mmengine.config import ConfigDict
from mmengine.evaluator import Evaluator
from torch import Tensor, nn

from mmtokmerge.errors import InputError
from mmtokmerge.measure.flops import counting_flops
from mmtokmerge.measure.inputs import network_inputs
from mmtokmerge.measure.samples import Samples
from mmtokmerge.measure.timing import cuda_timer, interleave, wall_timer

METRIC = "mIoU"
Context = Callable[[], AbstractContextManager[Any]]
TokenProbe = Callable[[nn.Module], AbstractContextManager[Mapping[str, int]]]


@dataclass(frozen=True)
class Setting:
    """One way to run a network; what a search goes through.

    Args:
        values: JSON values that tell it from the others, such as ``{'threshold': 0.9}``.
        model: A segmentor in eval mode.
        active: Makes the context in which the model runs this way; it leaves the model as it was.
    """

    values: Mapping[str, Any]
    model: nn.Module
    active: Context = nullcontext


@dataclass(frozen=True)
class EvalSpec:
    """What is measured, and how.

    Args:
        samples: The images.
        evaluator: Config of the evaluator; one of its metrics gives 'mIoU'.
        probe: Makes a context for one forward pass of a backbone; after the pass, what it gave
            holds the number of tokens at each place by name.
        shape: ``(H, W)`` to which images are resized for FLOPs, tokens and speed; None: as the test
            gives them to the network. The mIoU is always that of the config's test.
        repeats: How often each image is timed; the median counts.
        device: Where the models are.
        seed: Random seed for what a setting draws, such as ``operation='random'``.
    """

    samples: Samples
    evaluator: ConfigDict | Sequence[ConfigDict]
    probe: TokenProbe
    shape: tuple[int, int] | None = None
    repeats: int = 1
    device: str = "cpu"
    seed: int = 0


@dataclass(frozen=True)
class Measurement:
    """What one setting reached.

    Args:
        values: The metrics of the setting.
        metrics: All that the evaluator says.
        flops: FLOPs of one network input, the mean over the inputs; 1 MAC = 2 FLOPs.
        tokens: Tokens at each place that the probe names, the mean over the inputs.
        milliseconds: The time for each input.
        reference_milliseconds: The reference's time for each input, timed in turn with it.
    """

    values: dict[str, Any]
    metrics: dict[str, float]
    flops: float
    tokens: dict[str, float]
    milliseconds: list[float] = field(repr=False)
    reference_milliseconds: list[float] = field(repr=False)

    @property
    def miou(self) -> float:
        """Mean intersection over union, in percent."""
        return self.metrics[METRIC]

    @property
    def speed(self) -> float:
        """Throughput relative to the reference: the ratio of the medians over the inputs."""
        return median(self.reference_milliseconds) / median(self.milliseconds)

    def to_json(self) -> dict[str, Any]:
        """Everything, as JSON values."""
        return {**asdict(self), "speed": self.speed}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Measurement:
        """The inverse of :meth:`to_json`."""
        return cls(**{name: record[name] for name in cls.__dataclass_fields__})


@torch.no_grad()
def measure(
    setting: Setting,
    reference: Setting,
    spec: EvalSpec,
    advance: Callable[[], None] = lambda: None,
) -> Measurement:
    """Run a setting over all images; each is timed in turn with the reference.

    Args:
        setting: What is measured.
        reference: What its speed is compared with; the same as ``setting`` is 1 by definition.
        spec: Images, metric, timing.
        advance: Called after each image.

    Raises:
        InputError: If the evaluator gives no mIoU.
    """
    torch.manual_seed(spec.seed)
    evaluator = Evaluator(spec.evaluator)
    evaluator.dataset_meta = spec.samples.metainfo
    flops: list[int] = []
    tokens: list[Mapping[str, int]] = []
    own: list[float] = []
    other: list[float] = []
    for batch in spec.samples:
        inputs = network_inputs(setting.model, batch, spec.shape)
        with setting.active():
            evaluator.process(setting.model.test_step(batch), batch)
            for image in inputs:
                count, kept = _count(setting.model, image, spec.probe)
                flops.append(count)
                tokens.append(kept)
        for image in inputs:
            times = _time(setting, reference, image, spec)
            own.append(times[0])
            other.append(times[-1])
        advance()
    metrics = {key: float(value) for key, value in evaluator.evaluate(len(spec.samples)).items()}
    if METRIC not in metrics:
        found = ", ".join(metrics) or "nothing"
        raise InputError(f"The evaluator gives no {METRIC}, but {found}.")
    means = {place: fmean(kept[place] for kept in tokens) for place in tokens[0]}
    return Measurement(dict(setting.values), metrics, fmean(flops), means, own, other)


def _count(model: nn.Module, image: Tensor, probe: TokenProbe) -> tuple[int, Mapping[str, int]]:
    """FLOPs and tokens of one input; this run also warms up what is timed next."""
    with probe(model.backbone) as kept, counting_flops(model) as counter:
        model(image, None, mode="tensor")
    return int(counter.get_total_flops()), dict(kept)


def _time(setting: Setting, reference: Setting, image: Tensor, spec: EvalSpec) -> list[float]:
    """Milliseconds of the setting and, where it is another, of the reference."""
    steps = {"setting": _step(setting, image)}
    if setting is not reference:
        steps["reference"] = _step(reference, image)
    timer = cuda_timer if spec.device.startswith("cuda") else wall_timer
    samples = interleave(steps, spec.repeats, timer)
    return [median(samples[name]) for name in steps]


def _step(setting: Setting, image: Tensor) -> Callable[[], Any]:
    def step() -> Any:
        with setting.active():
            return setting.model(image, None, mode="tensor")

    return step
