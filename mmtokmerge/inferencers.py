"""mmseg's and mmpose's inferencers that also take the names of this package's configs.

``MMSegInferencer("b0_demo_hq")`` and ``MMPoseInferencer("b0_mouse_hq", "weights.pth")``; what else
they take and give is documented where they come from. Either is imported when first asked for.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmtokmerge.checks import did_you_mean
from mmtokmerge.engine.config_names import PACKAGE, config_names
from mmtokmerge.errors import InputError
from mmtokmerge.models.weights.safe_load import load_weights_safely
from mmtokmerge.quiet import quiet_imports

if TYPE_CHECKING:
    from mmpose.apis import MMPoseInferencer
    from mmseg.apis import MMSegInferencer

__all__ = ["MMPoseInferencer", "MMSegInferencer"]
SHIPPED = {"b0_demo": "b0_streets.pth", "b0_streets": "b0_streets.pth"}
"""The beginning of a config's name, and the weights in ``assets`` that are trained for it."""


def resolve(model: Any, weights: str | None) -> tuple[Any, str | None]:
    """The path of a config that is named, and its weights; anything else is given back.

    Raises:
        InputError: The config has no weights in this package, and none are given.
    """
    if not isinstance(model, str) or Path(model).is_file():
        return model, weights
    path = config_names().get(model.removesuffix(".py").removeprefix("configs/"))
    if path is None:
        return model, weights
    if weights is None:
        shipped = next((file for name, file in SHIPPED.items() if path.stem.startswith(name)), None)
        if shipped is None:
            raise InputError(
                f"{model} has no weights in this package: name a checkpoint, trained by "
                f"mmtokmerge train {path.stem}, as the second argument"
            )
        weights = str(PACKAGE / "assets" / shipped)
    return str(path), weights


@contextlib.contextmanager
def hinting(model: Any) -> Iterator[None]:
    """Name the nearest config of this package where the host knows no model of a name."""
    try:
        yield
    except ValueError as error:
        if "Cannot find model" not in str(error):
            raise
        raise InputError(
            f"{error}, nor in mmtokmerge{did_you_mean(model, config_names())}"
        ) from error


def _seg_inferencer() -> type:
    with quiet_imports():
        from mmseg.apis import MMSegInferencer as Base

    class MMSegInferencer(Base):
        __doc__ = Base.__doc__

        def __init__(self, model: Any, weights: str | None = None, **kwargs: Any) -> None:
            load_weights_safely()
            with hinting(model):
                super().__init__(*resolve(model, weights), **kwargs)

    return MMSegInferencer


def _pose_inferencer() -> type:
    from mmtokmerge.pose import import_mmpose

    import_mmpose()
    from mmpose.apis import MMPoseInferencer as Base

    class MMPoseInferencer(Base):
        __doc__ = Base.__doc__

        def __init__(
            self, pose2d: Any = None, pose2d_weights: str | None = None, **kwargs: Any
        ) -> None:
            load_weights_safely()
            with hinting(pose2d):
                super().__init__(*resolve(pose2d, pose2d_weights), **kwargs)

    return MMPoseInferencer


def __getattr__(name: str) -> Any:
    """The two classes, made when they are first asked for."""
    makers = {"MMSegInferencer": _seg_inferencer, "MMPoseInferencer": _pose_inferencer}
    if name not in makers:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    made = globals()[name] = makers[name]()
    return made
