"""What a network takes beside time: memory while it runs, measured in a process of its own, and its file's size."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import netgraft.errors as errors
from netgraft.errors import MeasureError

from .networks import Network, Setting, Variant, as_onnx, label_of

_START = """
import sys, types
package = types.ModuleType("netgraft")  # netgraft's own __init__ would bring torch along, and its memory
package.__path__ = [sys.argv[1]]
sys.modules["netgraft"] = package
from netgraft.costs.measured.footprint import child
child(sys.argv[2:])
"""


@dataclass(frozen=True)
class Footprint:
    """Bytes: ``memory`` is what loading and running adds to the process at its peak, ``file`` the model's file."""

    memory: int
    file: int


def footprint(
    model: Network | Variant, *, engine: str = "onnxruntime", precision: str = "fp32", batch: int = 1, threads: int = 1
) -> Footprint:
    """Measure the peak memory of one network, and its file as it is run (int8 after quantisation).

    Peak memory is the high-water mark of the resident set after the engine is imported and before the network is
    read, to that after a few runs, in a fresh process; Linux only. MeasureError where it cannot be had.
    """
    variant = Variant.of(model, engine, precision)
    if not os.access("/proc/self/clear_refs", os.W_OK):
        raise MeasureError("peak memory is read from /proc, which only Linux has")
    with tempfile.TemporaryDirectory() as folder:
        if isinstance(variant.model, Path):
            path = variant.model
        else:
            path = Path(folder, "model.onnx")
            data = as_onnx(variant.model)
            assert isinstance(data, bytes)
            path.write_bytes(data)
        size = path.stat().st_size if path.is_file() else 0
        if variant.precision == "int8":
            from .quantize import quantized

            path = Path(folder, "int8.onnx")
            path.write_bytes(quantized(as_onnx(variant.model), variant.calibration, batch))
            size = path.stat().st_size
        asked = {
            "path": str(path),
            "engine": variant.engine,
            "precision": "fp32" if variant.precision == "int8" else variant.precision,
            "batch": batch,
            "threads": threads,
        }
        package = Path(errors.__file__).parent
        command = [sys.executable, "-c", _START, str(package), json.dumps(asked)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    except (ValueError, IndexError):
        why = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise MeasureError(f"the process that ran {label_of(variant.model, 'the model')} ended: {why}") from None
    if "error" in answer:
        raise MeasureError(answer["error"])
    return Footprint(int(answer["memory"]), size)


def child(arguments: Sequence[str]) -> None:
    """What the fresh process does: load, run, and print the answer as JSON."""
    from netgraft.errors import NetgraftError

    from .engines import engine
    from .sampling import Subject

    asked = json.loads(arguments[0])
    variant = Variant(Path(asked["path"]), asked["engine"], asked["precision"])
    try:
        found = engine(variant.engine)
        with found.running(asked["threads"]):
            _import_of(variant.engine)
            before = _status("VmRSS")
            Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts again from here (proc(5))
            Subject("the model", variant, Setting(asked["batch"], asked["threads"]))
            print(json.dumps({"memory": max(0, _status("VmHWM") - before)}))
    except NetgraftError as error:
        print(json.dumps({"error": str(error)}))


def _import_of(engine: str) -> None:
    """What the engine's code itself takes is not the network's."""
    module = {"onnxruntime": "onnxruntime", "openvino": "openvino", "litert": "ai_edge_litert.interpreter"}
    __import__(module.get(engine, "torch"))


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return 1024 * int(line.split()[1])
    raise MeasureError(f"/proc/self/status shows no {field}")
