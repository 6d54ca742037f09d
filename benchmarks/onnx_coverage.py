"""Which ONNX files netgraft reads, how much of each it knows, and whether what it writes computes the same.

    python benchmarks/onnx_coverage.py --write docs/onnx-coverage.md \
        --keras VENV/bin/python --paddle VENV/bin/python

Files come from PyTorch's two exporters (networks of the zoo), from Keras (TensorFlow) and PaddlePaddle, each run by the
Python of an environment that has it (``pip install tensorflow-cpu tf2onnx``; ``pip install paddlepaddle paddle2onnx``),
and from the ``onnx`` package: its whole networks ("light") and every test of a single operation. Weights are random and
matter: statistics of batch norms are drawn too. ``known`` is the share of nodes that became operations of the op table;
the rest are operations of PyTorch's, or frozen ONNX nodes. The difference is the greatest one, relative to the greatest
magnitude of the output, between onnxruntime on the file and (a) onnxruntime on what netgraft writes of it, (b) torch.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ZOO = (
    "resnet18",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "efficientnet_b0",
    "convnext_tiny",
    "vit_tiny",
    "densenet121",
    "googlenet",
    "regnet_y_400mf",
    "shufflenet_v2",
    "squeezenet",
    "unet",
    "edsr",
    "imdn",
    "hourglass",
)
KERAS = (
    "MobileNetV2",
    "MobileNetV3Small",
    "EfficientNetB0",
    "EfficientNetV2B0",
    "ResNet50",
    "ResNet50V2",
    "DenseNet121",
    "InceptionV3",
    "Xception",
    "NASNetMobile",
    "ConvNeXtTiny",
    "VGG16",
)
PADDLE = (
    "resnet18",
    "mobilenet_v1",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "shufflenet_v2_x0_5",
    "squeezenet1_1",
    "densenet121",
    "googlenet",
    "inception_v3",
    "alexnet",
    "vgg11",
    "resnext50_32x4d",
)


# What other environments run


def export_keras(folder: Path) -> None:
    """Keras' applications through its own export, which is tf2onnx's."""
    import keras
    import numpy as np

    rng = np.random.default_rng(0)
    for name in KERAS:
        keras.utils.set_random_seed(0)
        size = {"InceptionV3": 128, "NASNetMobile": 224}.get(name, 96)
        model = getattr(keras.applications, name)(weights=None, input_shape=(size, size, 3), classes=10)
        for layer in model.layers:
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.set_weights([rng.uniform(0.8, 1.2, w.shape) for w in layer.get_weights()])
        model(np.zeros((1, size, size, 3), "float32"))  # only a model that was called is exported
        model.export(folder / f"{name}.onnx", format="onnx", verbose=False)
        print(name, flush=True)


def export_paddle(folder: Path) -> None:
    """PaddlePaddle's vision models through paddle2onnx."""
    import paddle

    paddle.seed(0)
    for name in PADDLE:
        model = getattr(paddle.vision.models, name)(num_classes=10)
        for layer in model.sublayers():
            if isinstance(layer, paddle.nn.BatchNorm2D):
                for tensor in (layer.weight, layer._variance):
                    tensor.set_value(paddle.uniform(tensor.shape, min=0.8, max=1.2))
        model.eval()
        size = 224 if name in ("googlenet", "inception_v3", "alexnet", "vgg11") else 96
        spec = [paddle.static.InputSpec([None, 3, size, size], "float32", "image")]
        paddle.onnx.export(model, str(folder / name), input_spec=spec, opset_version=15)
        print(name, flush=True)


def export_torch(folder: Path) -> None:
    """Networks of the zoo through PyTorch's two exporters, in opsets 13, 17, 18 and 20."""
    import torch

    from netgraft import zoo

    for i, name in enumerate(ZOO):
        torch.manual_seed(0)
        net = zoo.build(name, width=0.25).eval()
        for key, tensor in net.state_dict().items():
            if tensor.ndim == 1 and tensor.is_floating_point():
                shift = key.endswith(("bias", "mean"))
                tensor.uniform_(-0.1, 0.1) if shift else tensor.uniform_(0.8, 1.2)
        channels, height, width = zoo.entry(name).input_shape
        x = torch.randn(2, channels, min(height, 96), min(width, 96)) if name != "vit_tiny" else None
        x = torch.randn(2, channels, height, width) if x is None else x
        path = folder / f"torchscript/{name}.onnx"
        opset = (13, 17)[i % 2]
        names: dict[str, Any] = {"input_names": ["image"], "dynamic_axes": {"image": {0: "n"}}}
        torch.onnx.export(net, (x,), path, dynamo=False, opset_version=opset, **names)
        path = folder / f"dynamo/{name}.onnx"
        axes = ({0: torch.export.Dim.DYNAMIC},)
        opset = (18, 20)[i % 2]
        torch.onnx.export(net, (x,), path, dynamo=True, opset_version=opset, dynamic_shapes=axes, verbose=False)
        print(name, flush=True)


# What is measured


@dataclass
class Row:
    """One file: what became of it."""

    exporter: str
    model: str
    nodes: int = 0
    known: float = 0.0
    onnx: float | None = None
    torch: float | None = None
    again: bool = False
    frozen: Counter[str] = field(default_factory=Counter)
    failure: str = ""

    @property
    def right(self) -> bool:
        """Whether it was read and written back, and computes the same within 1e-4."""
        return not self.failure and self.onnx is not None and self.onnx <= 1e-4 and (self.torch or 0) <= 1e-4

    def cells(self) -> list[str]:
        """The row of the table."""
        frozen = ", ".join(f"{name.removeprefix('onnx::ai.onnx::')} {n}" for name, n in self.frozen.most_common(4))
        numbers = [f"{off:.0e}" if off is not None else "–" for off in (self.onnx, self.torch)]
        return [
            self.exporter,
            self.model,
            "yes" if not self.failure else "**no**",
            str(self.nodes),
            f"{self.known:.0%}",
            *numbers,
            "yes" if self.again else "no",
            (self.failure or frozen).replace("|", "/")[:160],
        ]


def measured(exporter: str, path: Path, name: str = "", inputs: list[Any] | None = None) -> Row:
    """Reads one file and compares."""
    import numpy as np
    import onnxruntime
    import torch
    from onnx import TensorProto, numpy_helper

    from netgraft.convert.from_onnx import load_onnx
    from netgraft.convert.onnx import example_inputs, is_runnable, to_onnx
    from netgraft.convert.to_torch import to_module
    from netgraft.errors import NetgraftError
    from netgraft.ir import Batch

    row = Row(exporter, name or path.stem)
    inputs = inputs and [numpy_helper.to_array(x) if isinstance(x, TensorProto) else x for x in inputs]

    def session(source: Any) -> Any:
        options = onnxruntime.SessionOptions()
        options.log_severity_level, options.intra_op_num_threads = 4, 1
        return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])

    try:
        original = session(str(path))
    except Exception as error:
        row.failure = f"{path.name}: onnxruntime cannot run it ({str(error).splitlines()[0][:80]})"
        return row
    try:
        with warnings.catch_warnings(record=True) as given:
            warnings.simplefilter("always")
            model = load_onnx(path)
        graph = model.graph
        row.nodes = len(graph)
        frozen = [node for node in graph if node.op == "frozen"]
        row.frozen = Counter(node.attrs["target"] for node in frozen)
        row.known = 1 - len(frozen) / max(1, len(graph))
        data = to_onnx(model)
        with tempfile.TemporaryDirectory() as folder:
            second = Path(folder) / "again.onnx"
            second.write_bytes(data)
            row.again = load_onnx(second).graph.weight_types.keys() == graph.weight_types.keys()
        fixed = any("was exported for a batch" in str(one.message) for one in given)
        has_batch = any(isinstance(d, Batch) for one in graph.inputs for d in one.type.shape)
        written = session(data)
        module = to_module(model).eval() if is_runnable(model) else None
        for batch in (1, 3) if has_batch and not fixed else (1,):
            xs = example_inputs(graph, batch) if inputs is None else tuple(map(torch.as_tensor, inputs))
            feeds = {one.id: x.numpy() for one, x in zip(graph.inputs, xs, strict=True)}
            expected = original.run(None, feeds)
            if (
                inputs is None
                and batch == 3
                and not any(np.ptp(y, axis=0).max() > 1e-3 * np.abs(y).max() for y in expected)
            ):
                row.failure = "its outputs do not depend on its inputs: nothing is tested"
            row.onnx = max(row.onnx or 0.0, difference(expected, written.run(None, feeds)))
            if module is not None:
                with torch.no_grad():
                    returned = module(*xs)
                ours = [y.numpy() for y in (returned if isinstance(returned, tuple) else (returned,))]
                row.torch = max(row.torch or 0.0, difference(expected, ours))
    except NetgraftError as error:
        row.failure = str(error).replace(str(path), path.name)
    except Exception as error:
        row.failure = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    return row


def difference(expected: list[Any], found: list[Any]) -> float:
    """The greatest difference relative to an output's greatest magnitude; infinite where shapes differ."""
    import numpy as np

    worst = 0.0
    for a, b in zip(expected, found, strict=True):
        if np.shape(a) != np.shape(b):
            return float("inf")
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        same = (a == b) | (np.isnan(a) & np.isnan(b))
        scale = float(np.abs(a[np.isfinite(a)]).max(initial=0.0)) or 1.0
        off = np.where(same, 0.0, np.abs(a - b) / scale)
        worst = max(worst, float(np.nan_to_num(off, nan=np.inf).max(initial=0.0)))
    return worst


def backend_tests(folder: Path) -> Iterator[tuple[str, str, Path, list[Any]]]:
    """What comes with the onnx package: a kind, a name, the file, and inputs (none for whole networks)."""
    import onnx
    from onnx import numpy_helper
    from onnx.backend.test import __file__ as backend
    from onnx.backend.test.case.node import collect_testcases

    data = Path(backend).parent / "data"
    for path in sorted((data / "light").glob("*.onnx")):
        yield "onnx, light", path.stem.removeprefix("light_"), path, []
    for kind in ("simple", "pytorch-converted", "pytorch-operator"):
        for path in sorted((data / kind).glob("*/model.onnx")):
            files = sorted(path.parent.glob("test_data_set_0/input_*.pb"), key=lambda p: int(p.stem.split("_")[1]))
            tensors = [onnx.TensorProto.FromString(file.read_bytes()) for file in files]
            try:
                inputs = [numpy_helper.to_array(tensor) for tensor in tensors]
            except Exception:  # sequences, which are no tensors
                inputs = []
            yield f"onnx, {kind}", path.parent.name.removeprefix("test_"), path, inputs
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cases = collect_testcases(None)
    for case in cases:
        if case.model is None or case.data_sets is None:
            continue  # a case that says only how it is made: none so far
        path = folder / "node.onnx"
        path.write_bytes(case.model.SerializeToString())
        yield "onnx, node", case.name.removeprefix("test_"), path, list(case.data_sets[0][0])


# What is written


HEAD = ("exporter", "model", "read", "nodes", "known", "ONNX", "torch", "again", "frozen, or why not")


def table(head: tuple[str, ...], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def tests_table(rows: list[Row]) -> str:
    """The tests of single operations, counted: too many for a row each."""
    found = []
    for kind in dict.fromkeys(row.exporter for row in rows):
        of_kind = [row for row in rows if row.exporter == kind]
        runs = [row for row in of_kind if "onnxruntime cannot run it" not in row.failure]
        refused = [row for row in runs if row.failure]
        wrong = [row for row in runs if not row.failure and not row.right]
        foreign = [row for row in runs if any(name.startswith("onnx::") for name in row.frozen)]
        torch_only = [row for row in runs if row.frozen and row not in foreign]
        counts = (len(of_kind), len(runs), len(runs) - len(refused), len(wrong), len(torch_only), len(foreign))
        found.append([kind, *map(str, counts)])
    return table(("tests", "all", "onnxruntime runs", "read", "wrong", "PyTorch's operations", "ONNX's, kept"), found)


def reasons(rows: list[Row], limit: int = 40) -> str:
    """Why tests that onnxruntime runs are refused or wrong: the reason without names, how often, and some of them."""
    kinds: dict[str, list[str]] = {}
    for row in rows:
        if row.right or "onnxruntime cannot run it" in row.failure:
            continue
        reason = row.failure.partition(": ")[2] if row.failure else f"differs by {row.onnx}, {row.torch}"
        kinds.setdefault(re.sub(r"'[^']*'|[\d.]+e?-?\d*", "…", reason)[:150], []).append(row.model)
    ranked = sorted(kinds.items(), key=lambda item: -len(item[1]))[:limit]
    return table(
        ("why", "tests", "such as"), [[why.replace("|", "/"), str(len(n)), ", ".join(n[:4])] for why, n in ranked]
    )


def main() -> None:
    """Runs everything and prints, or writes, the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--export", choices=["keras", "paddle", "torch"], help="only export, into --to")
    parser.add_argument("--to", type=Path, help="the folder of exported files (default: a temporary one)")
    parser.add_argument("--keras", help="a Python with tensorflow, keras and tf2onnx")
    parser.add_argument("--paddle", help="a Python with paddlepaddle and paddle2onnx")
    parser.add_argument("--write", type=Path, help="the Markdown file to write")
    options = parser.parse_args()
    if options.export:
        {"keras": export_keras, "paddle": export_paddle, "torch": export_torch}[options.export](options.to)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.to or Path(temporary)
        pythons = {"torch": sys.executable, "keras": options.keras, "paddle": options.paddle}
        for name, python in pythons.items():
            for part in ["torchscript", "dynamo"] if name == "torch" else [name]:
                (folder / part).mkdir(parents=True, exist_ok=True)
            have = folder / ("dynamo" if name == "torch" else name)
            if python and not any(have.glob("*.onnx")):
                to = folder if name == "torch" else have
                command = [python, __file__, "--export", name, "--to", str(to)]
                subprocess.run(command, check=False, stdout=sys.stderr)
        names = {"torchscript": "torch, TorchScript", "dynamo": "torch, dynamo", "keras": "Keras", "paddle": "Paddle"}
        nets = [measured(name, path) for part, name in names.items() for path in sorted((folder / part).glob("*.onnx"))]
        tests: list[Row] = []
        for kind, name, path, inputs in backend_tests(folder):
            rows = nets if kind == "onnx, light" else tests
            rows.append(measured(kind, path, name, inputs or None))
    text = "\n\n".join(
        [
            "# ONNX files in",
            "`known`: the share of nodes in the op table. `ONNX` and `torch`: the greatest difference from onnxruntime "
            "on the file, relative to the greatest magnitude of the output, of the file that netgraft writes of it and "
            "of the network in torch; at batch 1 and 3 where the batch is open. `again`: what netgraft wrote is read "
            "with the same weights. Written by `python benchmarks/onnx_coverage.py`.",
            f"{sum(row.right for row in nets)} of {len(nets)} networks are read, written back and compute the same "
            "within 1e-4.",
            table(HEAD, [row.cells() for row in nets]),
            "## Tests of the ONNX project",
            "Every test of the `onnx` package's backend suite, on its own inputs. `wrong`: off by more than 1e-4.",
            tests_table(tests),
            "What onnxruntime runs and netgraft refuses, or computes differently:",
            reasons(tests),
        ]
    )
    print(text)
    if options.write:
        options.write.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
