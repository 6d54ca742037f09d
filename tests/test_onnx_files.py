"""Broken and hostile ONNX files: one clear error each, and nothing outside the file's folder is read."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from networks import randomised, residual
from onnx import TensorProto, helper
from test_from_onnx import W, X, conv, made

import netgraft as ng
from netgraft.convert.from_onnx import load_onnx
from netgraft.convert.onnx import to_onnx
from netgraft.errors import SourceError

SECRET = b"a secret of somebody else's"


def whole(path: Path) -> onnx.ModelProto:
    return onnx.load(made(path, conv(), X, ["y"], W))


def external(**entries: str) -> Callable[[Path], onnx.ModelProto]:
    """A convolution whose kernel lies elsewhere."""

    def build(path: Path) -> onnx.ModelProto:
        model = whole(path)
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in entries.items():
            tensor.external_data.add(key=key, value=value.format(outside=path.parent.parent / "outside.bin"))
        return model

    return build


def with_dims(dims: list[int], **fields: object) -> Callable[[Path], onnx.ModelProto]:
    def build(path: Path) -> onnx.ModelProto:
        model = whole(path)
        del model.graph.initializer[0].dims[:]
        model.graph.initializer[0].dims.extend(dims)
        for name, value in fields.items():
            setattr(model.graph.initializer[0], name, value)
        return model

    return build


def with_nodes(
    *nodes: onnx.NodeProto, inputs: dict[str, list[object]] = X, **tensors: object
) -> Callable[[Path], onnx.ModelProto]:
    return lambda path: onnx.load(made(path, list(nodes), inputs, ["y"], tensors))


def with_opset(version: int) -> Callable[[Path], onnx.ModelProto]:
    def build(path: Path) -> onnx.ModelProto:
        model = whole(path)
        model.opset_import[0].version = version
        return model

    return build


def with_functions(count: int, calls: int, circle: bool = False) -> Callable[[Path], onnx.ModelProto]:
    """Functions of which each calls the next several times."""

    def build(path: Path) -> onnx.ModelProto:
        model = whole(path)
        imports = [helper.make_opsetid("", 17), helper.make_opsetid("f", 1)]
        for i in range(count):
            last = i == count - 1 and not circle
            op, domain = ("Relu", "") if last else (f"F{(i + 1) % count}", "f")
            names = ["a", *(f"b{j}" for j in range(calls - 1)), "c"]
            nodes = [helper.make_node(op, [names[j]], [names[j + 1]], domain=domain) for j in range(calls)]
            model.functions.append(helper.make_function("f", f"F{i}", ["a"], ["c"], nodes, imports))
        model.opset_import.append(helper.make_opsetid("f", 1))
        model.graph.node[0].output[0] = "z"
        model.graph.node.append(helper.make_node("F0", ["z"], ["y"], domain="f"))
        return model

    return build


def nested(depth: int) -> bytes:
    """A model with graphs in graphs: no library writes it."""

    def field(number: int, content: bytes) -> bytes:
        size, length = b"", len(content)
        while length > 127:
            size, length = size + bytes([length & 127 | 128]), length >> 7
        return bytes([number << 3 | 2]) + size + bytes([length]) + content

    graph = b""
    for _ in range(depth):
        graph = field(1, field(4, b"If") + field(5, field(1, b"then_branch") + field(6, graph)))
    return field(7, graph)


def of_type(build: Callable[[onnx.ModelProto], object]) -> Callable[[Path], onnx.ModelProto]:
    def changed(path: Path) -> onnx.ModelProto:
        model = whole(path)
        build(model)
        return model

    return changed


def node(op: str, *inputs: str, output: str = "y", **attrs: object) -> onnx.NodeProto:
    return helper.make_node(op, inputs, [output], **attrs)


HOSTILE: dict[str, tuple[Callable[[Path], onnx.ModelProto], str]] = {
    "absolute path": (external(location="{outside}"), "nothing outside it is read"),
    "path upwards": (external(location="../outside.bin"), "nothing outside it is read"),
    "path down and up": (external(location="data/../../outside.bin"), "nothing outside it is read"),
    "link": (external(location="link.bin"), "a link to elsewhere"),
    "link to a folder": (external(location="linked/outside.bin"), "a link to elsewhere"),
    "folder": (external(location="data"), "which is no file"),
    "pipe": (external(location="pipe"), "which is no file"),
    "no location": (external(), "nothing outside it is read"),
    "missing data": (external(location="none.bin"), "missing beside the model"),
    "more than there is": (
        external(location="own.bin", length="576"),
        "needs 576 bytes at 0 of own.bin, which has 100",
    ),
    "negative offset": (external(location="own.bin", offset="-4"), "needs 576 bytes at -4"),
    "offset of letters": (external(location="own.bin", offset="x"), "no number"),
    "a claim of 2 GB": (with_dims([512, 1024, 1024]), "needs 2147483648 bytes, the file holds 576"),
    "a claim beyond reason": (with_dims([2**62, 2**62]), "the file holds 576"),
    "negative size": (with_dims([-1, 4, 3, 2]), "impossible shape"),
    "unknown element type": (with_dims([6, 4, 3, 2], data_type=199), "unknown element type 199"),
    "strings": (of_type(lambda m: m.graph.initializer[0].CopyFrom(helper.make_tensor("w", 8, [1], [b"x"]))), "strings"),
    "cycle": (
        with_nodes(node("Add", "x", "b", output="a"), node("Relu", "a", output="b"), node("Relu", "b")),
        "itself",
    ),
    "reads nothing": (with_nodes(node("Add", "x", "nobody")), "reads 'nobody', which nothing gives"),
    "two of one name": (with_nodes(node("Relu", "x"), node("Neg", "x")), "two nodes give 'y'"),
    "no such output": (of_type(lambda m: setattr(m.graph.output[0], "name", "q")), "'q'"),
    "shapes that do not fit": (
        with_nodes(node("Conv", "x", "w"), w=np.zeros((4, 7, 3, 3), np.float32)),
        "does not fit|shape",
    ),
    "opset of the future": (with_opset(999), "opset 999 is not read"),
    "opset of the past": (with_opset(3), "opset 3 is not read"),
    "no opset": (of_type(lambda m: m.ClearField("opset_import")), "opset 1 is not read"),
    "no graph": (of_type(lambda m: m.ClearField("graph")), "without a graph"),
    "a sequence as input": (
        of_type(
            lambda m: m.graph.input[0].type.CopyFrom(
                helper.make_sequence_type_proto(helper.make_tensor_type_proto(1, []))
            )
        ),
        "no tensor of numbers",
    ),
    "input without a shape": (of_type(lambda m: m.graph.input[0].type.tensor_type.ClearField("shape")), "has no shape"),
    "shapes that values decide": (with_nodes(node("NonZero", "x")), "depends on the values"),
    "functions in a circle": (with_functions(3, 1, circle=True), "calls itself"),
    "functions that explode": (with_functions(12, 8), "come to more than 100000 nodes"),
    "sparse tensors": (of_type(lambda m: m.graph.sparse_initializer.add()), "sparse"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_one_error(name: str, tmp_path: Path) -> None:
    build, message = HOSTILE[name]
    folder = tmp_path / "here"
    (folder / "data").mkdir(parents=True)
    (tmp_path / "outside.bin").write_bytes(SECRET * 100)
    (folder / "link.bin").symlink_to(tmp_path / "outside.bin")
    (folder / "linked").symlink_to(tmp_path)
    (folder / "own.bin").write_bytes(bytes(100))
    os.mkfifo(folder / "pipe")
    path = folder / "model.onnx"
    path.write_bytes(build(path).SerializeToString())
    with pytest.raises(SourceError, match=message) as failure:
        ng.load(path)
    assert "model.onnx" in str(failure.value) and "\n" not in str(failure.value)


def test_tensors_are_not_made_large_from_small_ones(tmp_path: Path) -> None:
    """What cannot be computed within bounds when the file is read takes no memory; here, 32 TB."""
    nodes = [
        helper.make_node("ConstantOfShape", ["size"], ["large"]),
        helper.make_node("Expand", ["small", "size"], ["larger"]),
        helper.make_node("Add", ["large", "larger"], ["sum"]),
        helper.make_node("Add", ["x", "sum"], ["y"]),
    ]
    tensors = {"size": np.int64([2**20, 2, 2, 2**20]), "small": np.float32(1)}
    path = made(tmp_path / "large.onnx", nodes, {"x": ["n", 1, 1, 1, 1]}, ["y"], tensors)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    load_onnx(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB


def test_junk_is_no_model(tmp_path: Path) -> None:
    for junk in (b"", b"\x00" * 64, b"not ONNX at all", nested(2000), SECRET * 1000, bytes(range(256)) * 4):
        path = tmp_path / "junk.onnx"
        path.write_bytes(junk)
        with pytest.raises(SourceError, match=r"junk\.onnx"):
            ng.load(path)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return to_onnx(randomised(residual()))


def read_or_refused(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    try:
        load_onnx(path)
    except SourceError as error:
        assert path.name in str(error)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_file_that_was_cut_or_altered_is_read_or_refused(sound: bytes, tmp_path: Path, data: st.DataObject) -> None:
    """Truncated anywhere, or with bytes replaced: weights may change unseen, but nothing else happens."""
    end = data.draw(st.integers(0, len(sound)))
    altered = bytearray(sound[:end] if data.draw(st.booleans()) else sound)
    for _ in range(data.draw(st.integers(0, 8)) if altered else 0):
        # Most of the file are weights: half of the changes go to what describes the network.
        at = data.draw(st.integers(0, len(altered) - 1) | st.integers(0, min(len(altered) - 1, 4000)))
        altered[at] = data.draw(st.integers(0, 255))
    read_or_refused(tmp_path / "altered.onnx", bytes(altered))


FIELDS = st.sampled_from(["op_type", "input", "output", "attribute", "dims", "drop", "swap", "shape"])


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_network_that_was_rewired_is_read_or_refused(sound: bytes, tmp_path: Path, data: st.DataObject) -> None:
    """Well-formed protobuf, nonsense inside: other operations, wires, attributes, shapes."""
    model = onnx.load_from_string(sound)
    graph = model.graph
    names = [name for n in graph.node for name in n.output] + [t.name for t in graph.initializer] + ["x", "", "none"]
    numbers = st.sampled_from([-(2**63), -1, 0, 1, 2, 3, 7, 2**31, 2**40, 2**63 - 1])
    for _ in range(data.draw(st.integers(1, 3))):
        changed = data.draw(st.sampled_from(list(graph.node)))
        match data.draw(FIELDS):
            case "op_type":
                changed.op_type = data.draw(st.sampled_from(sorted(s.name for s in onnx.defs.get_all_schemas())))
            case "input" if changed.input:
                changed.input[data.draw(st.integers(0, len(changed.input) - 1))] = data.draw(st.sampled_from(names))
            case "output":
                changed.output[0] = data.draw(st.sampled_from(names))
            case "attribute":
                values = data.draw(st.lists(numbers, max_size=4)) or [0]
                key = data.draw(
                    st.sampled_from(["axis", "axes", "pads", "strides", "kernel_shape", "group", "perm", "to"])
                )
                del changed.attribute[:]
                changed.attribute.append(helper.make_attribute(key, data.draw(st.sampled_from([values, values[0]]))))
            case "dims":
                tensor = data.draw(st.sampled_from(list(graph.initializer)))
                tensor.dims[:] = data.draw(st.permutations(list(tensor.dims)))
            case "drop":
                graph.node.remove(changed)
            case "swap":
                del changed.input[:]
                changed.input.extend(data.draw(st.lists(st.sampled_from(names), max_size=4)))
            case "shape":
                dim = graph.input[0].type.tensor_type.shape.dim[data.draw(st.integers(0, 3))]
                dim.dim_value = data.draw(numbers)
    read_or_refused(tmp_path / "rewired.onnx", model.SerializeToString())
