"""ExecuTorch on the CPU: networks lowered to XNNPACK, and .pte files as they are."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from netgraft.errors import MeasureError

from .networks import Array, Engine, Input, Session, Setting, Variant, as_model


class ExecuTorch:
    """Its runtime, with XNNPACK for what that can run, and the portable kernels for the rest.

    A file was lowered for some batch size, and is measured with that.
    """

    name = "executorch"

    def missing(self) -> str:
        """See :class:`~.networks.Engine`."""
        return "" if find_spec("executorch") else "pip install 'netgraft[executorch]'"

    def lacks(self, precision: str) -> str:
        """See :class:`~.networks.Engine`: fp32 alone is lowered here."""
        if precision == "fp32":
            return ""
        return "netgraft lowers networks in fp32; quantise and lower it yourself, and measure the .pte file"

    @contextmanager
    def running(self, threads: int) -> Iterator[None]:
        """So many threads, and no gradients."""
        import torch
        from executorch.extension.pybindings import portable_lib

        before = portable_lib._threadpool_get_thread_count()
        portable_lib._unsafe_reset_threadpool(threads)
        try:
            with torch.no_grad():
                yield
        finally:
            portable_lib._unsafe_reset_threadpool(before)

    def load(self, variant: Variant, setting: Setting) -> _Program:
        """A file, or a network that is lowered with the batch size first; MeasureError for what cannot be lowered."""
        given = variant.model
        if isinstance(given, Path) and given.suffix == ".pte":
            return _Program(given.read_bytes())
        return _Program(lowered(variant, setting.batch))


def lowered(variant: Variant, batch: int) -> bytes:
    """The network as a .pte file for so many inputs at once."""
    import torch
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    from netgraft.convert.operations import TORCH_DTYPES
    from netgraft.convert.to_torch import to_module

    model = as_model(variant.model)
    types = model.graph.signature.inputs
    examples = tuple(torch.zeros(t.concrete(batch), dtype=TORCH_DTYPES[t.dtype]) for t in types)
    level = logging.root.level
    try:
        logging.root.setLevel(logging.ERROR)
        exported = torch.export.export(to_module(model).eval(), examples, strict=False)
        program = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()]).to_executorch()
    except Exception as error:  # whatever its passes raise
        lines = str(error).strip().splitlines()
        raise MeasureError(
            f"executorch cannot lower {model.name}: {lines[0] if lines else type(error).__name__}"
        ) from None
    finally:
        logging.root.setLevel(level)
    return bytes(program.buffer)


class _Program:
    def __init__(self, content: bytes) -> None:
        self.content = content
        inputs = self._method().metadata
        self.inputs = [
            Input(f"input {n}", list(meta.sizes()), _DTYPES.get(meta.dtype(), str(meta.dtype())))
            for n, meta in ((n, inputs.input_tensor_meta(n)) for n in range(inputs.num_inputs()))
        ]

    def _method(self) -> Any:
        from executorch.runtime import Runtime

        return Runtime.get().load_program(self.content).load_method("forward")

    def open(self, feed: Mapping[str, Array]) -> Session:
        import torch

        method = self._method()
        inputs = [torch.tensor(feed[given.name]) for given in self.inputs]
        return lambda: method.execute(inputs)


_DTYPES = {6: "float32", 7: "float64", 5: "float16", 4: "int64", 3: "int32", 1: "int8", 0: "uint8", 11: "bool"}
"""Numpy's names for torch's scalar types by their numbers, which is how a program tells them."""

BY_NAME: dict[str, Engine] = {"executorch": ExecuTorch()}
