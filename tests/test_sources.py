"""Where networks come from: every spelling of a source, and what is said when it names none."""

from __future__ import annotations

import io
import pickle
import sys
import zipfile
from collections.abc import Mapping
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch._export.serde.schema import SCHEMA_VERSION
from torch._export.serde.serialize import serialize
from torch.export import Dim, export

from netgraft import zoo
from netgraft.errors import SourceError
from netgraft.export import export as write
from netgraft.ir import Batch, Model
from netgraft.sources import graphs, load, parse_shape
from netgraft.spaces import families
from netgraft.spaces.families import nasbench201_cells

NETWORKS = """
import torch
from torch import nn
from helper_of_this_file import WIDTH

example_inputs = torch.randn(2, 3, 8, 8)
flat_example_inputs = (torch.randn(2, 5),)


class Net(nn.Module):
    def __init__(self, width=WIDTH):
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3)

    def forward(self, x):
        return self.conv(x)


class Sized(nn.Module):
    def __init__(self, width):
        super().__init__()


net = Net(7)
flat = nn.Linear(5, 2)
number = 3
_hidden = nn.ReLU()


def build():
    return Net(9)


def broken():
    return Net(width=None)


def wrong():
    return "a network"
"""


@pytest.fixture
def networks(tmp_path: Path) -> Path:
    path = tmp_path / "networks.py"
    path.write_text(NETWORKS)
    (tmp_path / "helper_of_this_file.py").write_text("WIDTH = 5\n")
    return path


def channels(model: Model) -> int:
    return int(model.graph["conv"].attrs["out_channels"])


def error(source: object, **options: object) -> str:
    """The message with which the source is refused, one line of it."""
    with pytest.raises(SourceError) as caught:
        load(source, **options)  # type: ignore[arg-type]  # wrong on purpose
    assert "\n" not in str(caught.value)
    return str(caught.value)


# The zoo


def test_zoo_with_options() -> None:
    model = load("zoo:vgg11?classes=7&channels=1&width=0.125&input=1x32x32")
    assert model.name == "vgg11"
    assert model.graph.inputs[0].type.shape == (Batch(), 1, 32, 32)
    assert model.graph.signature.outputs[0].shape == (Batch(), 7)


def test_zoo_takes_the_shape_from_its_options() -> None:
    model = load("zoo:vit_tiny?channels=1&image=8&patch=4&blocks=1&width=0.25")
    assert model.graph.inputs[0].type.shape == (Batch(), 1, 8, 8)


def test_zoo_weights_are_the_same_every_time() -> None:
    before = torch.get_rng_state()
    first, second = (load("zoo:edsr?width=0.125&blocks=1") for _ in range(2))
    assert all(np.array_equal(first.weights[key], second.weights[key]) for key in first.weights)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("zoo:resnet2", "did you mean 'resnet20'"),
        ("zoo:resnet20?depth=3", "no option 'depth'"),
        ("zoo:resnet20?width=wide", "width=wide is no number"),
        ("zoo:resnet20?input=8", "does not run on example inputs"),
        ("zoo:resnet20?input=3x-1x8", "write channels, height and width like 3x32x32"),
        ("resnet20", "did you mean zoo:resnet20"),
        ("nonsense", "FILE.pt2, FILE.onnx, FILE.pkl (AutoGO's) or a folder of 'netgraft export'"),
        ("family:nasbench20", "did you mean 'nasbench201'"),
        ("nasbench201", "did you mean family:nasbench201"),
        ("family:nasbench201?seeds=3", "no option 'seeds'; it takes arch, or count and seed"),
        ("family:nasbench201?seed=x", "seed=x is no whole number"),
        ("family:nasbench201?count=0", "count=0 is no whole number"),
        ("family:nasbench201?count=2", "several networks"),
        ("family:nasbench201?count=all", "several networks"),
        ("family:nasbench201?arch=x", "'x' is no cell of NAS-Bench-201"),
        ("family:nasbench201?arch=x&seed=3", "names one member; leave out seed"),
        ("missing.pkl", "missing.pkl does not exist"),
        ("", "names no network"),
        ("weights.pth", "file of weights"),
        ("missing.onnx", "missing.onnx does not exist"),
        ("missing.pt2", "missing.pt2 does not exist"),
        ("missing.py:net", "missing.py does not exist"),
    ],
)
def test_what_names_no_network(source: str, message: str) -> None:
    assert message in error(source)


def test_shapes() -> None:
    assert parse_shape("3x32x16") == (3, 32, 16)
    for text in ("", "3x", "0x3", "axb", "3,32"):
        with pytest.raises(SourceError, match="3x32x32"):
            parse_shape(text)


# Families


CELL = "|skip_connect~0|+|none~0|nor_conv_1x1~1|+|nor_conv_3x3~0|none~1|avg_pool_3x3~2|"


def test_a_member_of_a_family() -> None:
    model = load(f"family:nasbench201?arch={CELL}")
    assert model.name == f"nasbench201?arch={CELL}"
    assert model.graph == families.nasbench201(CELL)
    assert load(f"family:{model.name}".replace("|", "%7C")).graph == model.graph
    drawn = load("family:nasbench201?seed=3")
    assert (drawn.name, drawn.graph) == next(families.sample("nasbench201", 1, 3))
    assert load("family:nasbench201").name == load("family:nasbench201?seed=0").name != drawn.name


# Several at once


def test_graphs_of_a_family() -> None:
    found = list(graphs("family:nasbench201?count=3&seed=2"))
    assert found == list(families.sample("nasbench201", 3, 2))
    every = graphs("family:nasbench201?count=all")
    assert [name for name, _ in islice(every, 2)] == [f"nasbench201?arch={cell}" for cell in nasbench201_cells()[:2]]


def test_graphs_of_files(exported: Path) -> None:
    (exported.parent / "notes.txt").write_text("no network")
    exported.with_name("second.pt2").write_bytes(exported.read_bytes())
    for source in (exported.parent, f"{exported.parent}/*.pt2"):
        assert [name for name, _ in graphs(source)] == ["net", "second"]
    ((name, graph),) = graphs(f"{exported.parent}/se*")
    assert name == "second"
    assert list(graphs(exported)) == [("net", graph)]
    exported.write_bytes(b"nothing")
    with pytest.raises(SourceError, match=r"net\.pt2 is no exported program"):
        list(graphs(exported.parent))


def test_a_folder_that_export_wrote_is_its_network(exported: Path, tmp_path: Path) -> None:
    model = load(exported)
    folder = tmp_path / "better"
    write(model, folder, program=True)
    found = load(folder)
    assert found.name == "better" and found.graph == load(folder / "model.pt2").graph
    assert found.weights.keys() == model.weights.keys()
    assert [name for name, _ in graphs(folder)] == ["better"], "model.pt2 and model.onnx are one network"
    (folder / "model.pt2").unlink()
    assert load(folder).graph == load(folder / "model.onnx").graph
    (folder / "another.onnx").write_bytes((folder / "model.onnx").read_bytes())
    assert len(list(graphs(folder))) == 2
    for name in ("model.onnx", "another.onnx"):
        (folder / name).unlink()
    with pytest.raises(SourceError, match=r"better holds no model\.pt2 or model\.onnx"):
        load(folder)


@pytest.mark.parametrize("source", ["*.pkl", "{empty}"])
def test_no_graphs(tmp_path: Path, source: str) -> None:
    with pytest.raises(SourceError, match="holds no file of a graph"):
        list(graphs(source.replace("{empty}", str(tmp_path)) if "{" in source else f"{tmp_path}/{source}"))


def test_graphs_of_the_zoo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zoo, "names", lambda: ("edsr", "squeezenet"))
    assert [name for name, _ in graphs("zoo:*")] == ["edsr", "squeezenet"]
    ((name, graph),) = graphs("zoo:edsr?width=0.125&blocks=1")
    assert (name, graph) == ("edsr", load("zoo:edsr?width=0.125&blocks=1").graph)


# Python files


def test_modules_classes_and_functions_of_a_file(networks: Path) -> None:
    path = list(sys.path)
    assert channels(load(f"{networks}:net")) == 7
    assert channels(load(f"{networks}:Net")) == 5
    model = load(f"{networks}:build")
    assert (channels(model), model.name) == (9, "build")
    assert sys.path == path


def test_a_network_of_a_file_can_have_inputs_of_its_own(networks: Path) -> None:
    assert load(f"{networks}:flat").graph.inputs[0].type.shape == (Batch(), 5)
    for shape in ((3, 6, 4), "3x6x4"):
        assert load(f"{networks}:net", input_shape=shape).graph.inputs[0].type.shape == (Batch(), 3, 6, 4)
    with pytest.raises(SourceError, match="'3,6,4' is no shape"):
        load(f"{networks}:net", input_shape="3,6,4")
    given = torch.randn(2, 3, 5, 5)
    assert load(f"{networks}:net", example_inputs=given).graph.inputs[0].type.shape == (Batch(), 3, 5, 5)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nets", "has no 'nets'; networks in networks.py: Net, Sized, net, flat, build, broken, wrong"),
        ("_hidden", "has no '_hidden'"),
        ("", "networks in networks.py"),
        ("number", "number in"),
        ("Sized", "needs arguments (width)"),
        ("wrong", "is a str, not a torch.nn.Module"),
        ("broken", "networks.py, line 13"),
    ],
)
def test_names_that_are_no_network(networks: Path, name: str, message: str) -> None:
    assert message in error(f"{networks}:{name}")


def test_a_file_without_a_name(networks: Path) -> None:
    assert "networks in networks.py: Net" in error(networks)


def test_a_file_without_inputs(tmp_path: Path) -> None:
    path = tmp_path / "bare.py"
    path.write_text("from torch import nn\nnet = nn.ReLU()\n")
    message = error(f"{path}:net")
    assert "--input 3x32x32" in message and "example_inputs = " in message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\nimport nothing_of_this_name\n", "No module named 'nothing_of_this_name' (bad.py, line 2)"),
        ("x = 1\n\ny = x +\n", "bad.py, line 3"),
        ("def f():\n    return 1 / 0\n\nf()\n", "division by zero (bad.py, line 2)"),
        ("raise SystemExit(3)\n", "SystemExit"),
    ],
)
def test_errors_in_a_file_come_with_their_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.py"
    path.write_text(text)
    assert message in error(f"{path}:net")


# Objects


def test_modules() -> None:
    module = nn.Conv2d(3, 4, 1)
    assert load(module, example_inputs=torch.randn(1, 3, 2, 2)).name == "Conv2d"
    assert load(module, input_shape=(3, 4, 4)).graph.inputs[0].type.shape == (Batch(), 3, 4, 4)
    assert "example_inputs=" in error(module)
    module.example_inputs = lambda: torch.randn(2, 3, 5, 5)
    assert load(module).graph.inputs[0].type.shape == (Batch(), 3, 5, 5)


# Exported programs


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    path = tmp_path / "net.pt2"
    program = export(nn.Linear(4, 2), (torch.randn(6, 4),), dynamic_shapes=({0: 3 * Dim("third")},), strict=False)
    torch.export.save(program, path)
    return path


def test_programs_and_files_of_them(exported: Path) -> None:
    model = load(exported)
    assert model.name == "net"
    assert model.graph.inputs[0].type.shape == (Batch(3), 4)
    assert load(torch.export.load(exported)).graph == model.graph


def test_no_file_of_a_program(tmp_path: Path) -> None:
    path = tmp_path / "net.pt2"
    path.write_bytes(b"something else")
    assert "net.pt2 is no exported program" in error(path)
    torch.save({"weight": torch.ones(2)}, path)
    assert "net.pt2" in error(path)


class Bomb:
    """Sets a trace of itself where it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.trace,)


def _records(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {info.filename: archive.read(info) for info in archive.infolist()}


def _rewrite(path: Path, records: Mapping[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, data in records.items():
            archive.writestr(name, data)


def _change(path: Path, record: str, content: bytes) -> None:
    """Writes ``content`` as a record of the archive."""
    records = _records(path)
    _rewrite(path, records | {f"{next(iter(records)).split('/')[0]}/{record}": content})


def _saved(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def test_a_file_whose_pickles_would_run_something(exported: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    _change(exported, "data/sample_inputs/model.pt", _saved((Bomb(trace),)))
    assert "net.pt2" in error(exported)
    assert not trace.exists()
    torch.load(io.BytesIO(_saved(Bomb(trace))), weights_only=False)
    assert trace.exists()  # the bomb was live


RUNNING = ["data/constants/opaque_obj_0", "data/constants/custom_obj_0", "data/aotinductor/m/m.so"]


@pytest.mark.parametrize("record", RUNNING)
def test_a_file_with_records_that_run(exported: Path, tmp_path: Path, record: str) -> None:
    _change(exported, record, pickle.dumps(Bomb(tmp_path / "trace")))
    assert record in error(exported)


def test_a_file_whose_sizes_would_run_something(exported: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    size = b'"expr_str": "'
    code = f"__import__('pathlib').Path('{trace}').touch() or ".encode()
    _rewrite(exported, {name: data.replace(size, size + code) for name, data in _records(exported).items()})
    assert "no arithmetic" in error(exported)
    assert not trace.exists()
    torch.export.load(exported)
    assert trace.exists()  # what torch itself makes of it


@pytest.fixture
def early(exported: Path) -> Path:
    """The file in the layout of torch 2.7: plain records, without a folder around them."""
    artifact = serialize(torch.export.load(exported))
    names = {
        "serialized_exported_program.json": artifact.exported_program,
        "serialized_state_dict.pt": artifact.state_dict,
        "serialized_constants.pt": artifact.constants,
        "serialized_example_inputs.pt": artifact.example_inputs,
        "version": ".".join(map(str, SCHEMA_VERSION)).encode(),
    }
    _rewrite(path := exported.with_name("early.pt2"), names)
    return path


def test_files_of_the_oldest_torch_are_read_as_safely(exported: Path, early: Path, tmp_path: Path) -> None:
    assert load(early).graph.digest == load(exported).graph.digest
    trace = tmp_path / "trace"
    records = _records(early)
    for name, data in {"serialized_example_inputs.pt": _saved((Bomb(trace),)), "models/x.pkl": b""}.items():
        _rewrite(early, records | {name: data})
        assert "early.pt2" in error(early)
        assert not trace.exists()
