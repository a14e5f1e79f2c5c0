"""Whether torch records what runs, to run it again on other inputs."""

from __future__ import annotations

import inspect

import torch

from mmtokmerge.errors import InputError


def is_recorded() -> bool:
    """Whether torch compiles or traces: loops over rows would then hold for this size alone."""
    return torch.compiler.is_compiling() or is_jit_traced()


def is_jit_traced() -> bool:
    """Whether ``torch.jit.trace`` records, or what counts operations on its graph."""
    # torch.jit has it without naming it among what it exports, and without types.
    tracing: bool = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    return tracing


def is_exported() -> bool:
    """Whether ``torch.export`` records."""
    exporting = getattr(torch.compiler, "is_exporting", None)  # from torch 2.7 on
    return bool(exporting()) if exporting is not None else False


def refuse_trace(what: str) -> None:
    """Raise where ``torch.jit.trace`` or ``torch.export`` would record what another image changes.

    A graph that is only looked at, as mmengine's counter of operations does, is let through.

    Raises:
        InputError: It would.
    """
    exported = is_exported()
    if exported or (is_jit_traced() and not _is_only_counted()):
        raise InputError(
            f"torch.{'export' if exported else 'jit.trace'} cannot record {what}: how many tokens "
            "are left depends on the image, so the trace would be wrong for the next one; take a "
            "fixed number, such as ToMe's num_merged, LocalMergingByRate's keep or "
            "sharing.num_shared"
        )


def _is_only_counted() -> bool:
    """Whether the graph is made by itself, to be looked at, and for no ONNX file.

    torch says so nowhere: ``torch.jit.trace`` of a function records without that function, and the
    export to ONNX, which uses it, has named the modules before.
    """
    from torch.jit import _trace

    if getattr(_trace, "_trace_module_map", None) is not None:
        return False
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_code.co_name == "_get_trace_graph":
            return True
        frame = frame.f_back
    return False
