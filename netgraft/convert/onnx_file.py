"""ONNX files, read as what they are: data from anywhere.

Everything that a file claims is checked against what it holds before memory is taken: tensors against their bytes,
external data against the files beside it (and no others), functions against what they come to once they are put in
place. What does not hold is one SourceError.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any, Final

import numpy.typing as npt
import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper, inliner, numpy_helper, version_converter

from netgraft.errors import SourceError

OLDEST: Final = 7
"""The oldest opset that can be converted to one that is read."""
READ: Final = 13
"""The oldest opset that is read as it is."""
_LARGEST: Final = 2**31
_MOST_NODES: Final = 100_000
_FIELDS: Final[dict[int, tuple[str, int]]] = {
    TensorProto.FLOAT: ("float_data", 1),
    TensorProto.DOUBLE: ("double_data", 1),
    TensorProto.INT64: ("int64_data", 1),
    TensorProto.STRING: ("string_data", 1),
    TensorProto.UINT32: ("uint64_data", 1),
    TensorProto.UINT64: ("uint64_data", 1),
    TensorProto.COMPLEX64: ("float_data", 2),
    TensorProto.COMPLEX128: ("double_data", 2),
}
"""Where the elements of a tensor lie that has no raw bytes, and how many entries one has; int32_data otherwise."""


def read_file(path: Path) -> onnx.ModelProto:
    """The model in ``path`` with all its tensors inside and its functions put in place; opset 13 or later.

    Older files, from opset 7 on, are converted by ``onnx.version_converter``. SourceError for a file that is missing,
    damaged, cut off or makes claims that do not hold, and for external data that lies outside the file's folder.
    """
    try:
        if not path.is_file():
            raise SourceError(f"{path} does not exist, or is no file")
        if path.stat().st_size >= _LARGEST:
            raise SourceError(f"{path} has 2 GB or more, which no ONNX file can: keep the weights as external data")
        model = onnx.ModelProto.FromString(path.read_bytes())
    except DecodeError:
        raise SourceError(f"{path} is no ONNX file, is cut off, or nests graphs deeper than ONNX files can") from None
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror}") from None
    try:
        return _checked(model, path)
    except SourceError as error:
        raise SourceError(f"{path}: {error}") from None
    except RecursionError:
        raise SourceError(f"{path}: graphs are nested too deeply") from None


def opset(model: onnx.ModelProto, domain: str = "") -> int:
    """The version of a domain's operations that the model uses; 1 for one that it does not mention."""
    return next((int(o.version) for o in model.opset_import if (o.domain or "ai.onnx") == (domain or "ai.onnx")), 1)


def array(tensor: onnx.TensorProto) -> npt.NDArray[Any]:
    """The tensor's elements; :func:`read_file` has checked that they are there. SourceError for strings."""
    if tensor.data_type == TensorProto.STRING:
        raise SourceError(f"the tensor {tensor.name!r} holds strings, which no network here computes with")
    try:
        found: npt.NDArray[Any] = numpy_helper.to_array(tensor)
    except Exception as error:
        raise SourceError(f"the tensor {tensor.name!r} cannot be read: {error}") from None
    return found


def _checked(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    if not model.HasField("graph") or not (model.graph.node or model.graph.output):
        raise SourceError("no ONNX model, or one without a graph")
    version = opset(model)
    newest = onnx.defs.onnx_opset_version()
    if not OLDEST <= version <= newest:
        raise SourceError(f"opset {version} is not read; export with opset 13 to {newest} (7 to 12 are converted)")
    if model.graph.sparse_initializer:
        raise SourceError("sparse initialisers are not read; store them as ordinary ones")
    tensors = list(_tensors(model.graph))
    for function in model.functions:
        tensors += _node_tensors(function.node)
    _load_external([t for t in tensors if t.data_location == TensorProto.EXTERNAL], path.parent)
    for tensor in tensors:
        _check(tensor)
    if model.functions:
        _check_functions(model)
        model = inliner.inline_local_functions(model)
    if version < READ:
        try:
            model = version_converter.convert_version(model, READ)
        except Exception as error:
            line = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
            raise SourceError(f"opset {version} could not be converted to {READ}: {line}") from None
    return model


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    yield from _node_tensors(graph.node)


def _node_tensors(nodes: Any) -> Iterator[onnx.TensorProto]:
    for node in nodes:
        for attribute in node.attribute:
            yield from attribute.tensors
            if attribute.HasField("t"):
                yield attribute.t
            for graph in subgraphs(attribute):
                yield from _tensors(graph)


def subgraphs(attribute: onnx.AttributeProto) -> list[onnx.GraphProto]:
    """The graphs that an attribute holds."""
    return [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]


def _bytes(tensor: onnx.TensorProto) -> int:
    """How many bytes the elements that a tensor claims to have take."""
    if any(d < 0 for d in tensor.dims):
        raise SourceError(f"the tensor {tensor.name!r} has the impossible shape {tuple(tensor.dims)}")
    try:
        kind = helper.tensor_dtype_to_np_dtype(tensor.data_type)
    except (KeyError, ValueError, TypeError):
        raise SourceError(f"the tensor {tensor.name!r} has the unknown element type {tensor.data_type}") from None
    bits = _PACKED.get(tensor.data_type, kind.itemsize * 8)
    return int(prod(tensor.dims) * bits + 7) // 8


_PACKED: Final = {
    value: bits
    for names, bits in ((("INT4", "UINT4", "FLOAT4E2M1"), 4), (("INT2", "UINT2"), 2))
    for name in names
    if (value := getattr(TensorProto, name, None)) is not None
}


def _check(tensor: onnx.TensorProto) -> None:
    """SourceError unless the tensor holds as many elements as its shape says."""
    wanted = _bytes(tensor)
    if tensor.HasField("raw_data"):
        if tensor.data_type == TensorProto.STRING or len(tensor.raw_data) != wanted:
            raise SourceError(
                f"the tensor {tensor.name!r} of shape {tuple(tensor.dims)} needs {wanted} bytes, the file holds "
                f"{len(tensor.raw_data)}"
            )
        return
    name, each = _FIELDS.get(tensor.data_type, ("int32_data", 1))
    held, needed = len(getattr(tensor, name)), prod(tensor.dims) * each
    if tensor.data_type in _PACKED:
        needed = wanted
    if held != needed:
        raise SourceError(
            f"the tensor {tensor.name!r} of shape {tuple(tensor.dims)} needs {needed} numbers, the file holds {held}"
        )


def _load_external(tensors: list[onnx.TensorProto], folder: Path) -> None:
    """Puts the bytes of tensors that lie in files beside the model into them."""
    sizes: dict[Path, int] = {}
    taken = 0
    for tensor in tensors:
        given = {entry.key: entry.value for entry in tensor.external_data}
        file = _beside(given.get("location", ""), folder, tensor.name)
        sizes.setdefault(file, file.stat().st_size)
        wanted = _bytes(tensor)
        try:
            offset = int(given.get("offset") or 0)
            length = int(given.get("length") or wanted)
        except ValueError:
            raise SourceError(f"the tensor {tensor.name!r} has an offset or length that is no number") from None
        if length != wanted or offset < 0 or offset + length > sizes[file]:
            raise SourceError(
                f"the tensor {tensor.name!r} of shape {tuple(tensor.dims)} needs {wanted} bytes at {offset} of "
                f"{file.name}, which has {sizes[file]}"
            )
        taken += length
        if taken > 2 * sum(sizes.values()):
            raise SourceError("its tensors read the same external data again and again")
        with file.open("rb") as stream:
            stream.seek(offset)
            tensor.raw_data = stream.read(length)
        tensor.data_location = TensorProto.DEFAULT
        del tensor.external_data[:]


def _beside(location: str, folder: Path, name: str) -> Path:
    """The file of external data at ``location``, which must lie in ``folder`` or below it."""
    where = f"the data of tensor {name!r} lie in {location!r}"
    given = Path(location)
    if not location or "\0" in location or given.is_absolute() or ".." in given.parts or ":" in location:
        raise SourceError(f"{where}, which is no place below the file's folder: nothing outside it is read")
    file = folder / given
    try:
        inside = file.resolve().is_relative_to(folder.resolve())
        regular = stat.S_ISREG(file.stat().st_mode)
    except (OSError, ValueError, RuntimeError):
        raise SourceError(f"{where}, which is missing beside the model") from None
    if not inside:
        raise SourceError(f"{where}, a link to elsewhere: nothing outside the file's folder is read; put a copy there")
    if not regular:
        raise SourceError(f"{where}, which is no file")
    return file


def _check_functions(model: onnx.ModelProto) -> None:
    """SourceError for functions that call themselves, or that come to too many nodes once they are put in place."""
    functions = {(f.domain, f.name): f for f in model.functions}
    counts: dict[tuple[str, str], int] = {}
    open_: set[tuple[str, str]] = set()

    def size(nodes: Any) -> int:
        total = 0
        for node in nodes:
            key = (node.domain, node.op_type)
            total += count(key) if key in functions else 1
            total += sum(size(g.node) for attribute in node.attribute for g in subgraphs(attribute))
        return total

    def count(key: tuple[str, str]) -> int:
        if key in open_:
            raise SourceError(f"the function {key[1]!r} calls itself")
        if key not in counts:
            open_.add(key)
            counts[key] = size(functions[key].node)
            open_.discard(key)
        return counts[key]

    if size(model.graph.node) > _MOST_NODES:
        raise SourceError(f"its functions come to more than {_MOST_NODES} nodes")
