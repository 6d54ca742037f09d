"""What each kernel of a network takes in onnxruntime, by its own profiler: for tables of operators.

The profiler reads the wall clock in whole microseconds. So every kernel is timed in many runs of a few fresh sessions,
and what is reported is the mean of the timings that lie close to the 20th percentile: low ones are the clean ones, as
for whole networks, and the mean of many whole numbers is finer than a whole number.
"""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from netgraft.errors import MeasureError

from .engines import engine
from .flags import has_avx512
from .networks import Input, random_input

RUNS = 6
"""Runs that count in each session, after one that does not."""
SESSIONS = 5
"""Fresh sessions in which each network's kernels are timed."""
CLOSE = 1.05, 1.0
"""Timings are averaged up to so many times the 20th percentile, and so many microseconds more."""


@dataclass(frozen=True)
class Part:
    """A kernel of onnxruntime's optimised graph: its name, its operation, its tensors by name, and microseconds."""

    name: str
    operation: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    microseconds: float


def check_kernels() -> None:
    """MeasureError on a processor, or without the engine, whose kernels nobody here knows."""
    engine("onnxruntime")
    if not has_avx512():
        raise MeasureError(
            "a table is made of the kernels that onnxruntime has for AVX-512, in blocks of 16 channels; this processor "
            "shows no avx512f: 'netgraft measure' measures whole networks on it, 'netgraft device' learns to estimate "
            "those of a space"
        )


def profiled(models: Sequence[bytes], sessions: int) -> list[tuple[Part, ...] | None]:
    """The kernels of each model, timed in so many fresh sessions, all models taking turns; None for one that
    onnxruntime cannot run.
    """
    profilers: dict[int, Profiler] = {}
    for place, model in enumerate(models):
        profiler = Profiler(model)
        with suppress(MeasureError):
            profiler.session()
            profilers[place] = profiler
    for _ in range(sessions - 1):
        for profiler in profilers.values():
            profiler.session()
    return [tuple(profilers[place].parts()) if place in profilers else None for place in range(len(models))]


class Profiler:
    """Profiles one ONNX model on one thread, a fresh session at a time: let others have their turn between two, and a
    while in which the machine is busy does not fall on one of them alone. MeasureError where the model cannot run.
    """

    def __init__(self, model: bytes, batch: int = 1) -> None:
        self.model = model
        self.batch = batch
        self.timings: dict[int, list[float]] = defaultdict(list)
        self.ran: list[tuple[str, str]] = []
        self.nodes: Nodes = {}

    def session(self, runs: int = RUNS) -> None:
        """Run the model in a fresh session, and keep what its kernels took."""
        import onnxruntime as ort

        with tempfile.TemporaryDirectory() as directory:
            optimised = Path(directory, "optimised.onnx")
            try:
                options = ort.SessionOptions()
                options.intra_op_num_threads = options.inter_op_num_threads = 1
                options.log_severity_level = 4
                options.enable_profiling = True
                options.profile_file_prefix = str(Path(directory, "profile"))
                if not self.nodes:
                    options.optimized_model_filepath = str(optimised)
                session = ort.InferenceSession(self.model, options, providers=["CPUExecutionProvider"])
                feed = {spec.name: random_input(_spec(spec), self.batch, "the model") for spec in session.get_inputs()}
                for _ in range(runs + 1):
                    session.run(None, feed)
                events = _events(Path(session.end_profiling()))
            except Exception as error:  # onnxruntime's exceptions share no base
                first = str(error).strip().splitlines()[0]
                raise MeasureError(f"onnxruntime cannot profile the model: {first}") from error
            if not self.nodes:
                self.nodes = _nodes(optimised)
        _, *counted = _by_run(events, runs + 1)
        self.ran = [(str(e["name"]).removesuffix("_kernel_time"), str(e["args"]["op_name"])) for e in counted[0]]
        for run in counted:
            for place, event in enumerate(run):
                self.timings[place].append(float(event["dur"]))

    def parts(self) -> list[Part]:
        """The kernels, in the order in which they run."""
        nodes = {key: list(found) for key, found in self.nodes.items()}
        described = [_described(name, operation, nodes) for name, operation in self.ran]
        return [Part(*one, _low(self.timings[place])) for place, one in enumerate(described)]


def _spec(spec: Any) -> Input:
    from .onnx_runtime import input_of

    return input_of(spec)


def _events(path: Path) -> list[Mapping[str, Any]]:
    """One event for each kernel that ran."""
    found = json.loads(path.read_text(encoding="utf-8"))
    return [event for event in found if event["cat"] == "Node" and event["name"].endswith("_kernel_time")]


def _by_run(events: Sequence[Mapping[str, Any]], runs: int) -> list[Sequence[Mapping[str, Any]]]:
    each, left = divmod(len(events), runs)
    if left:
        raise MeasureError(f"its profile holds {len(events)} kernels in {runs} runs")
    return [events[i * each : (i + 1) * each] for i in range(runs)]


def _low(values: Sequence[float]) -> float:
    times = np.array(values)
    factor, more = CLOSE
    return float(times[times <= np.percentile(times, 20) * factor + more].mean())


Nodes = Mapping[tuple[str, str], list[tuple[tuple[str, ...], tuple[str, ...]]]]


# Where an ONNX file has these: the numbers of protobuf fields in onnx.proto.
_GRAPH, _NODE = 7, 1
_INPUT, _OUTPUT, _NAME, _OPERATION = 1, 2, 3, 4


def _nodes(path: Path) -> Nodes:
    """The tensors of the optimised graph's nodes, by their names and operations.

    Read without the package onnx, which a device that only measures need not have.
    """
    found: dict[tuple[str, str], list[tuple[tuple[str, ...], tuple[str, ...]]]] = defaultdict(list)
    for graph in _fields(memoryview(path.read_bytes()), _GRAPH):
        for node in _fields(graph, _NODE):
            inputs, outputs, name, operation = (
                tuple(bytes(text).decode() for text in _fields(node, field))
                for field in (_INPUT, _OUTPUT, _NAME, _OPERATION)
            )
            found["".join(name), "".join(operation)].append((inputs, outputs))
    return found


def _fields(message: memoryview, wanted: int) -> Iterator[memoryview]:
    """The contents of a protobuf message's fields of one number, where they are texts or messages."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        number, kind = tag >> 3, tag & 7
        if kind == 2:
            size, at = _varint(message, at)
            if number == wanted:
                yield message[at : at + size]
            at += size
        elif kind == 0:
            _, at = _varint(message, at)
        else:
            at += 8 if kind == 1 else 4


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """A number of variable length, and where it ends."""
    value = shift = 0
    while True:
        byte = message[at]
        value, shift, at = value | (byte & 127) << shift, shift + 7, at + 1
        if byte < 128:
            return value, at


def _described(name: str, operation: str, nodes: Nodes) -> tuple[str, str, tuple[str, ...], tuple[str, ...]]:
    """Nodes without a name are taken in order."""
    known = nodes.get((name, operation), [])
    inputs, outputs = known.pop(0) if known else ((), ())
    return name, operation, inputs, outputs
