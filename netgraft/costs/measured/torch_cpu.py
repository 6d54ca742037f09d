"""PyTorch on the CPU: eager, and compiled by inductor."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import chain
from typing import Any

from .flags import has_bf16
from .networks import Array, Engine, Input, Session, Setting, Variant, as_model


class Torch:
    """The program that ``torch.export`` makes of a network, run eagerly or through ``torch.compile``.

    A deviation: a fresh session is the same program with its weights moved to new memory, since compiling takes
    seconds.
    """

    def __init__(self, name: str, *, compiled: bool) -> None:
        self.name = name
        self.compiled = compiled

    def missing(self) -> str:
        """See :class:`~.networks.Engine`; compiling takes a C++ compiler."""
        if not find_spec("torch"):
            return "pip install torch"
        if self.compiled and sys.platform != "win32" and not _compiler():
            return "install a C++ compiler, such as g++ or clang++, or name one in $CXX"
        return ""

    def lacks(self, precision: str) -> str:
        """See :class:`~.networks.Engine`: bf16 where the processor has it, no int8."""
        if precision == "int8":
            return "quantised networks are measured in onnxruntime or openvino"
        if precision == "bf16" and not has_bf16():
            return "this processor has no bf16 instructions; it would be emulated, slower than fp32"
        return ""

    @contextmanager
    def running(self, threads: int) -> Iterator[None]:
        """So many threads, and no gradients; the number of threads is torch's own again afterwards."""
        import torch

        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            with torch.no_grad():
                yield
        finally:
            torch.set_num_threads(before)

    def load(self, variant: Variant, setting: Setting) -> _Program:
        """Read, and export with the batch size."""
        return _Program(variant, setting, self.compiled)


class _Program:
    def __init__(self, variant: Variant, setting: Setting, compiled: bool) -> None:
        import torch

        from netgraft.convert.operations import TORCH_DTYPES
        from netgraft.convert.to_torch import to_module

        model = as_model(variant.model)
        types = model.graph.signature.inputs
        self.cast = torch.bfloat16 if variant.precision == "bf16" else None
        examples = tuple(torch.zeros(t.concrete(setting.batch), dtype=TORCH_DTYPES[t.dtype]) for t in types)
        self.inputs = [
            Input(given.id, example.shape, str(example.dtype).removeprefix("torch."))
            for given, example in zip(model.graph.inputs, examples, strict=True)
        ]
        module = to_module(model).eval()
        if self.cast:
            module = module.to(self.cast)
            examples = tuple(self._given(x) for x in examples)
        self.module = torch.export.export(module, examples, strict=False).module()
        self.run: Any = torch.compile(self.module) if compiled else self.module

    def _given(self, tensor: Any) -> Any:
        return tensor.to(self.cast) if self.cast and tensor.is_floating_point() else tensor

    def open(self, feed: Mapping[str, Array]) -> Session:
        import torch

        for weight in chain(self.module.parameters(), self.module.buffers()):
            weight.data = weight.data.clone()
        inputs = tuple(self._given(torch.tensor(feed[given.name])) for given in self.inputs)
        run = self.run
        return lambda: run(*inputs)


def _compiler() -> bool:
    named = os.environ.get("CXX")
    return any(shutil.which(name) for name in ([named] if named else ["g++", "clang++", "c++"]))


BY_NAME: dict[str, Engine] = {
    "torch": Torch("torch", compiled=False),
    "torch.compile": Torch("torch.compile", compiled=True),
}
