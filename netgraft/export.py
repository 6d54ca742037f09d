"""A network as files that need nothing of netgraft: ``model.py``, ``weights.safetensors`` and ``model.onnx``, and a
program of ``torch.export``'s where it came from one.
"""

from __future__ import annotations

import importlib.util
import json
import os
import tempfile
import warnings
from collections.abc import Callable, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.export import Dim

from netgraft.convert.onnx import apart, example_inputs, is_runnable, to_onnx, verify
from netgraft.convert.onnx_foreign import is_foreign
from netgraft.convert.quiet import quiet
from netgraft.convert.source import emit
from netgraft.convert.to_torch import to_module
from netgraft.errors import ConversionError, OptionError
from netgraft.ir import Batch, Graph, Model

FILES: Final = ("model.py", "weights.safetensors", "model.onnx")
PROGRAM: Final = "model.pt2"
RECORD: Final = "netgraft.json"
CLASS_NAME: Final = "Network"
TOLERANCE: Final = 1e-5


def export(
    model: Model,
    directory: str | os.PathLike[str],
    *,
    original: Model | None = None,
    notes: Sequence[str] = (),
    program: bool = False,
) -> list[Path]:
    """Writes the network into ``directory`` and returns the paths; nothing is written unless everything was verified.

    The files are loaded again and compared with :func:`~netgraft.convert.to_torch.to_module` first: ``model.py`` with
    ``weights.safetensors`` loaded strictly (within 1e-5) and ``model.onnx`` in onnxruntime (within 1e-4).
    ``program`` asks for ``model.pt2`` too: the network in evaluation, for any batch size, as ``torch.export.save``
    writes it.
    A network that holds operations of ONNX's that torch does not have is written as ``model.onnx`` only, one that holds
    operations that ONNX does not have without it, and a UserWarning and the notes say so; where not even onnxruntime
    has them, nothing can be compared.
    ``netgraft.json`` says what the network is, beside ``original`` if that is given, with ``notes`` (what inputs it
    expects, say), and which files are netgraft's:
    OptionError rather than overwrite a file that it did not write, or that was changed since. ConversionError where the
    network cannot be written.
    """
    folder = Path(directory)
    _refuse_foreign_files(folder)
    folder.mkdir(parents=True, exist_ok=True)
    foreign = [node for node in model.graph if node.op == "frozen" and is_foreign(node.attrs)]
    files: tuple[str, ...] = ("model.onnx",) if foreign else (*FILES, PROGRAM) if program else FILES
    if foreign:
        why = f"no model.py: {foreign[0].id} is {foreign[0].attrs['target']}, which torch does not have"
        warnings.warn(f"{model.name} is written as model.onnx only; {why}", UserWarning, stacklevel=2)
        notes = (*notes, why)
    with tempfile.TemporaryDirectory(prefix=".netgraft-", dir=folder) as name:
        draft = Path(name)
        off: dict[str, float | None] = {}
        if not foreign:
            (draft / "model.py").write_text(emit(model.graph, class_name=CLASS_NAME), encoding="utf-8")
            state = {key: tensor.contiguous() for key, tensor in to_module(model).state_dict().items()}
            save_file(state, draft / "weights.safetensors")
            (draft / "weights.safetensors").chmod(0o666 & ~_umask())  # safetensors lets nobody else read it
            off["model.py"] = _verify_source(draft, model)
        if PROGRAM in files:
            off[PROGRAM] = _write_program(draft, model)
        try:
            data = to_onnx(model, draft / "model.onnx")
        except ConversionError as error:
            if foreign:
                raise
            files = tuple(file for file in files if file != "model.onnx")
            warnings.warn(f"there is no model.onnx: {error}", UserWarning, stacklevel=2)
            notes = (*notes, f"no model.onnx: {error}")
        else:
            off["model.onnx"] = verify(data, model) if not foreign or is_runnable(model) else None
        record = {
            "name": model.name,
            **_facts(model.graph),
            "original": _facts(original.graph) if original else None,
            "greatest_difference": off,
            "notes": list(notes),
            "files": {file: _digest(draft / file) for file in files},
        }
        (draft / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        for file in (*files, RECORD):
            os.replace(draft / file, folder / file)
    for file in {*FILES, PROGRAM} - set(files):
        (folder / file).unlink(missing_ok=True)  # of an earlier export
    return [folder / file for file in (*files, RECORD)]


def _facts(graph: Graph) -> dict[str, Any]:
    parameters = sum(graph.weight_types[key].numel() for key in graph.trainable)
    return {"signature": str(graph.signature), "parameters": parameters, "digest": graph.digest}


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _digest(path: Path) -> str:
    return blake2b(path.read_bytes(), digest_size=16).hexdigest()


def _refuse_foreign_files(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise OptionError(f"{folder} is a file; export needs a folder")
    present = [file for file in (*FILES, PROGRAM, RECORD) if (folder / file).exists()]
    if not present:
        return
    try:
        written = dict(json.loads((folder / RECORD).read_text(encoding="utf-8"))["files"])
    except (OSError, ValueError, KeyError, TypeError):
        written = {}
    for file in present:
        if file != RECORD and written.get(file) != _digest(folder / file):
            raise OptionError(f"{folder / file} was not written by netgraft, or was changed; choose another folder")
    if not written:
        raise OptionError(f"{folder / RECORD} was not written by netgraft; choose another folder")


def load(directory: str | os.PathLike[str]) -> nn.Module:
    """The network that :func:`export` wrote, as its own ``model.py`` makes it, with its weights.

    This runs ``model.py``: use it on files you trust.
    """
    folder = Path(directory)
    spec = importlib.util.spec_from_file_location("netgraft_exported_model", folder / "model.py")
    assert spec is not None and spec.loader is not None, "a .py file has a loader"
    namespace = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(namespace)
    network: nn.Module = getattr(namespace, CLASS_NAME)()
    network.load_state_dict(load_file(folder / "weights.safetensors"), strict=True)
    return network


def _verify_source(folder: Path, model: Model) -> float:
    """The greatest difference between the written source and the graph; ConversionError where it is too great."""
    return _held(model, "model.py", load(folder).eval())


def _write_program(folder: Path, model: Model) -> float:
    """Writes ``model.pt2``; the greatest difference between what is read from it and the graph."""
    inputs = example_inputs(model.graph, batch=2)
    types = [given.type.shape for given in model.graph.inputs]
    dims = tuple({i: Dim.AUTO for i, dim in enumerate(shape) if isinstance(dim, Batch)} for shape in types)
    with quiet():
        program = torch.export.export(load(folder).eval(), inputs, dynamic_shapes=dims, strict=False)
        torch.export.save(program, folder / PROGRAM)
        again = torch.export.load(folder / PROGRAM).module()
    return _held(model, PROGRAM, again, batch=3)  # another than it was exported with


def _held(model: Model, file: str, written: Callable[..., Any], batch: int = 2) -> float:
    """The greatest difference between a written network and the graph; ConversionError where it is too great."""
    inputs = example_inputs(model.graph, batch)
    with torch.no_grad():
        ours, theirs = to_module(model).eval()(*inputs), written(*inputs)
    pairs = zip(*(x if isinstance(x, list | tuple) else (x,) for x in (ours, theirs)), strict=True)
    off = max(apart(a.double().numpy(), b.double().numpy()) for a, b in pairs)
    if not off <= TOLERANCE:
        raise ConversionError(f"{model.name}: the written {file} differs by {off:.2g}; please report this")
    return off
