"""A module in the place of a host's: of the host's class, over the host's own parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from torch import nn

from mmtokmerge.errors import InputError
from mmtokmerge.kernels.plain import is_patched


class Replacement(nn.Module):
    """Stands in a host's module's place; a subclass says what ``forward`` does instead.

    :func:`replacement_of` mixes such a subclass with the host's class, so that whoever asks for the
    host's class finds it: hooks that record hidden states, activation checkpointing, wrapping for
    several GPUs. Parameters, buffers, submodules and hooks are the host's own dicts: what is put
    into one of the two, an adapter or a hook, is in the other.

    A subclass names in ``own`` the attributes that it adds, which the host does not get.
    """

    own: ClassVar[tuple[str, ...]] = ()

    if TYPE_CHECKING:  # the host's parameters, submodules and attributes, whatever they are

        def __getattr__(self, name: str) -> Any: ...

    _host: tuple[nn.Module]  # in a tuple, so that it is no submodule and in no state dict

    def give_back(self) -> nn.Module:
        """The host's module, with whatever was set on this one since."""
        (host,) = self._host
        added = {"_host", *ITS_OWN, *self.own}
        host.__dict__.update({k: v for k, v in self.__dict__.items() if k not in added})
        return host

    def host_forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the host's class does."""
        return type(self._host[0]).forward(self, *args, **kwargs)

    def __reduce_ex__(self, protocol: Any) -> Any:
        # The mixed class is made when it is needed, so pickle cannot find it by its name.
        kind, host_class = type(self).__bases__
        state = {k: v for k, v in self.__dict__.items() if k not in ITS_OWN}
        return _empty, (kind, host_class), state


ITS_OWN = ("forward", "_compiled_call_impl")
"""Attributes that are bound to one instance, and go with it."""


def is_recorder(forward: Any) -> bool:
    """Whether transformers 4 put a function in a forward's place to record outputs.

    It leaves it there where a forward ends in an error.
    """
    code: Any = getattr(forward, "__code__", None)
    name, file = getattr(code, "co_name", ""), getattr(code, "co_filename", "")
    return name == "wrapped_forward" and "transformers" in str(file)


def replacement_of(host: nn.Module, kind: type[Replacement], **attributes: Any) -> Any:
    """A module of ``kind`` and of the host's class, which shares what the host holds.

    Args:
        host: The module that it will stand for.
        kind: What it does.
        attributes: Set on it, not on the host; ``kind.own`` names them.

    Raises:
        InputError: Somebody gave the host's instance another ``forward``, which would be lost.
    """
    if isinstance(host, Replacement):
        raise InputError("it stands twice in the model")
    if is_patched(host) and not is_recorder(host.__dict__["forward"]):
        raise InputError("somebody replaced its forward")
    if host.__dict__.get("_compiled_call_impl") is not None:
        raise InputError("it is compiled by itself: apply merging first, then compile")
    module = _empty(kind, type(host))
    module.__dict__.update({k: v for k, v in host.__dict__.items() if k not in ITS_OWN})
    module.__dict__.update(attributes, _host=(host,))
    return module


def replace_child(parent: Any, name: str, kind: type[Replacement], **attributes: Any) -> Any:
    """Put :func:`replacement_of` a submodule in its place and return it."""
    child = replacement_of(getattr(parent, name), kind, **attributes)
    setattr(parent, name, child)
    return child


def give_all_back(model: nn.Module) -> None:
    """Put the hosts' modules back wherever a replacement stands."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, Replacement):
                setattr(parent, name, child.give_back())


def kind_of(module: Any) -> str:
    """``package.ClassName`` of a module, of the host's class where a replacement stands."""
    if isinstance(module, Replacement):
        module = module._host[0]
    return f"{type(module).__module__.split('.')[0]}.{type(module).__name__}"


_MIXED: dict[tuple[Any, Any], Any] = {}


def _empty(kind: type[Replacement], host_class: type[nn.Module]) -> Any:
    """An instance of ``kind`` mixed with the host's class, without anything in it."""
    mixed: Any = _MIXED.get((kind, host_class))
    if mixed is None:
        name = f"Merging{host_class.__name__}"
        make: Any = type
        mixed = make(name, (kind, host_class), {"__module__": kind.__module__})
        _MIXED[kind, host_class] = mixed
    return mixed.__new__(mixed)
