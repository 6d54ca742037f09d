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

import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ZOO = {
    "resnet18": {},
    "mobilenet_v2": {},
    "mobilenet_v3_small": {},
    "efficientnet_b0": {},
    "convnext_tiny": {},
    "vit_tiny": {},
    "densenet121": {},
    "googlenet": {},
    "regnet_y_400mf": {},
    "shufflenet_v2": {},
    "squeezenet": {},
    "unet": {},
    "edsr": {},
    "imdn": {},
    "hourglass": {},
}
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

    for i, (name, options) in enumerate(ZOO.items()):
        torch.manual_seed(0)
        net = zoo.build(name, width=0.25, **options).eval()
        for key, tensor in net.state_dict().items():
            if tensor.ndim == 1 and tensor.is_floating_point():
                tensor.uniform_(0.8, 1.2) if "bias" not in key else tensor.uniform_(-0.2, 0.2)
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
    import onnxruntime
    import torch

    from netgraft.convert.from_onnx import load_onnx
    from netgraft.convert.onnx import example_inputs, is_runnable, to_onnx
    from netgraft.convert.to_torch import to_module
    from netgraft.errors import NetgraftError
    from netgraft.ir import Batch

    row = Row(exporter, name or path.stem)

    def session(source: Any) -> Any:
        options = onnxruntime.SessionOptions()
        options.log_severity_level, options.intra_op_num_threads = 4, 1
        return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])

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
        original, written = session(str(path)), session(data)
        module = to_module(model).eval() if is_runnable(model) else None
        for batch in (1, 3) if has_batch and not fixed else (1,):
            xs = example_inputs(graph, batch) if inputs is None else tuple(torch.as_tensor(x) for x in inputs)
            feeds = {one.id: x.numpy() for one, x in zip(graph.inputs, xs, strict=True)}
            expected = original.run(None, feeds)
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


def backend_cases(kind: str) -> Iterator[tuple[str, Path, list[Any]]]:
    """The tests that come with the onnx package: a name, the file, and the first set of inputs."""
    import onnx
    from onnx import numpy_helper
    from onnx.backend.test import loader

    for case in loader.load_model_tests(kind=kind):
        folder = Path(case.model_dir)
        inputs = []
        for file in sorted((folder / "test_data_set_0").glob("input_*.pb"), key=lambda p: int(p.stem.split("_")[1])):
            inputs.append(numpy_helper.to_array(onnx.TensorProto.FromString(file.read_bytes())))
        yield case.name.removeprefix("test_"), folder / "model.onnx", inputs
