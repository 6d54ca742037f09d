"""Where networks come from: the strings that name one, and the objects that are one."""

from __future__ import annotations

import glob
import importlib.util
import inspect
import os
import re
import sys
import types
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from netgraft import zoo
from netgraft.convert.autogo import autogo_entries, load_autogo
from netgraft.convert.from_onnx import load_onnx
from netgraft.convert.from_torch import from_exported, from_module, reason
from netgraft.convert.pt2 import load_pt2
from netgraft.errors import SourceError
from netgraft.ir import Graph, Model, untrained
from netgraft.spaces import families

Source = str | Path | nn.Module | ExportedProgram
Shape = tuple[int, ...]
Inputs = Tensor | tuple[Tensor, ...]

FORMS = "zoo:NAME, family:NAME, FILE.py:NAME, FILE.pt2, FILE.onnx, FILE.pkl (AutoGO's) or a folder of 'netgraft export'"
"""How a source is spelled."""

SUFFIXES = (".onnx", ".pt2", ".pkl")
"""Of files that are networks by themselves."""

EXPORTED = ("model.pt2", "model.onnx")
"""Of what 'netgraft export' writes into a folder, the files that are the network: the first that is there is read."""

_SEED = 0


def load(source: Source, *, example_inputs: Inputs | None = None, input_shape: Shape | str | None = None) -> Model:
    """The network that ``source`` names or is.

    ``zoo:NAME``
        A network of :mod:`netgraft.zoo`, with weights drawn from a fixed seed. Options of its builder follow as in a
        web address, ``zoo:resnet20?classes=100&width=0.5``; ``input=1x8x8`` among them gives the inputs' shape.
    ``family:NAME``
        A member of one of :mod:`netgraft.spaces.families`, with new weights: ``family:hiaml?seed=3`` draws one,
        ``family:nasbench201?arch=|skip_connect~0|+...`` names it.
    ``FILE.pkl``
        A graph of AutoGO's, with new weights. Nothing in the file is unpickled.
    ``FILE.pt2``
        A program that ``torch.export.save`` wrote. Nothing in it is run or unpickled.
    ``FILE.onnx``
        A network of any exporter, of opset 13 or later (7 to 12 are converted), with its external data. Sizes other
        than the batch that the file leaves open are those of the example inputs. What neither netgraft nor torch has
        an operation for is kept, and written back by ``export``.
    a folder that ``netgraft export`` wrote
        Its ``model.pt2`` where it has one, or else its ``model.onnx``, under the folder's name.
    ``FILE.py:NAME``
        The file is run, and NAME in it must be a module, or a function or class that gives one without arguments.
    a module, or an exported program
        As it is; it is not changed.

    A module is read by running it on ``example_inputs``: those given, or random ones of ``input_shape`` (without the
    batch: ``(3, 32, 32)`` or ``"3x32x32"``), or those that the file calls ``NAME_example_inputs`` or
    ``example_inputs``, or that the module has as an attribute ``example_inputs``. SourceError says what is missing or
    wrong.
    """
    if example_inputs is None and input_shape is not None:
        example_inputs = _images(parse_shape(input_shape) if isinstance(input_shape, str) else input_shape)
    if isinstance(source, ExportedProgram):
        return from_exported(source)
    if isinstance(source, nn.Module):
        return _from_object(source, type(source).__name__, example_inputs)
    text = str(source)
    if text.startswith("zoo:"):
        return _from_zoo(text.removeprefix("zoo:"), example_inputs)
    if text.startswith("family:"):
        found = list(islice(_from_family(text.removeprefix("family:")), 2))
        if len(found) > 1:
            raise SourceError(f"{text} names several networks, where one is needed; leave out count")
        ((name, graph),) = found
        return untrained(graph, name, _SEED)
    if os.path.isdir(text):
        return replace(load(_exported(text), example_inputs=example_inputs), name=Path(text).resolve().name)
    if text.endswith(".pkl"):
        name, graph = load_autogo(Path(text))
        return untrained(graph, name, _SEED)
    if text.endswith(".onnx"):
        given = (example_inputs,) if isinstance(example_inputs, Tensor) else example_inputs
        return load_onnx(Path(text), None if given is None else [tuple(x.shape) for x in given])
    if text.endswith(".pt2"):
        return from_exported(load_pt2(Path(text)), name=Path(text).stem)
    file, _, name = text.rpartition(":")
    if file.endswith(".py") or text.endswith(".py"):
        return _from_file(Path(file), name, example_inputs) if file.endswith(".py") else _unnamed(Path(text))
    raise SourceError(f"{text!r} names no network; a source is {FORMS}{_hint(text)}")


def graphs(source: Source, *, input_shape: Shape | None = None) -> Iterator[tuple[str, Graph]]:
    """The graphs that ``source`` names, each with its name, made as they are asked for: what segments are mined from.

    Whatever :func:`load` takes gives one, read on inputs of ``input_shape`` where that is given. Beyond that,
    ``family:NAME?count=5000&seed=0`` draws several members and ``family:nasbench201?count=all`` lists a family;
    ``zoo:*`` is the zoo; a folder (other than one that ``netgraft export`` wrote), or a pattern such as
    ``graphs/*.pkl``, stands for its .pkl, .pt2 and .onnx files; and a collection of GENNAPE's (.pkl or
    .json) for its graphs.
    """
    text = str(source)
    if not isinstance(source, str | Path):
        model = load(source, input_shape=input_shape)
        yield model.name, model.graph
    elif text.startswith("family:"):
        yield from _from_family(text.removeprefix("family:"))
    elif text == "zoo:*":
        for name in zoo.names():
            yield name, load(f"zoo:{name}", input_shape=input_shape).graph
    elif text.endswith((".pkl", ".json")) and Path(text).is_file():
        yield from ((entry.name, entry.graph) for entry in autogo_entries(Path(text)))
    elif not is_exported(text) and (files := _files(text)) is not None:
        for file in files:
            yield from graphs(file, input_shape=input_shape)
    else:
        model = load(source, input_shape=input_shape)
        yield model.name, model.graph


def is_exported(text: str) -> bool:
    """Whether it is a folder of one network, as ``netgraft export`` writes it."""
    found = {name for name in os.listdir(text) if name.endswith(SUFFIXES)} if os.path.isdir(text) else set()
    return not found.isdisjoint(EXPORTED) and found <= {*EXPORTED, "model.int8.onnx"}  # which 'quantize' may add


def _exported(folder: str) -> Path:
    """The file that is the network in a folder that ``netgraft export`` wrote."""
    for name in EXPORTED:
        if Path(folder, name).is_file():
            return Path(folder, name)
    names = " or ".join(EXPORTED)
    raise SourceError(f"{folder} holds no {names}; name a folder that 'netgraft export' wrote, or a file")


def _files(text: str) -> list[str] | None:
    """The files of graphs in a folder, or those that a pattern names; None where the text is neither."""
    if text.startswith("zoo:"):
        return None
    if os.path.isdir(text):
        found = [str(Path(text, name)) for name in sorted(os.listdir(text)) if name.endswith(SUFFIXES)]
    elif glob.has_magic(text):
        found = sorted(glob.glob(text))
    else:
        return None
    if not found:
        raise SourceError(f"{text} holds no file of a graph; .pkl, .pt2 and .onnx files are read")
    return found


def parse_shape(text: str) -> Shape:
    """``3x32x32`` as (3, 32, 32); SourceError for anything else."""
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", text):
        raise SourceError(f"{text!r} is no shape; write channels, height and width like 3x32x32")
    return tuple(int(part) for part in text.split("x"))


def _hint(text: str) -> str:
    if text.endswith((".pt", ".pth", ".bin", ".ckpt", ".safetensors")):
        return ". A file of weights does not say what computes with them: build and load the network in a FILE.py"
    if text in zoo.names():
        return f"; did you mean zoo:{text}?"
    if text in families.FAMILIES:
        return f"; did you mean family:{text}?"
    return ""


def _images(shape: Shape) -> Tensor:
    """Two random inputs of the given shape."""
    return torch.randn(2, *shape, generator=torch.Generator().manual_seed(_SEED))


def _from_zoo(text: str, example_inputs: Inputs | None) -> Model:
    name, _, query = text.partition("?")
    entry = zoo.entry(name)
    given = dict(parse_qsl(query, keep_blank_values=True))
    shape = parse_shape(given.pop("input")) if "input" in given else None
    options = {option: _number(option, value) for option, value in given.items()}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        module = zoo.build(name, **options)
    if shape is None:
        channels, height, width = entry.input_shape
        # What these options mean is the same throughout the zoo.
        image = options.get("image")
        shape = (int(options.get("channels", channels)), int(image or height), int(image or width))
    return from_module(module, _images(shape) if example_inputs is None else example_inputs, name=name)


def _from_family(text: str) -> Iterator[tuple[str, Graph]]:
    name, _, query = text.partition("?")
    chosen = families.family(name)
    # A + stands for itself in an architecture, unlike in a web address.
    given = {key: unquote(value) for key, _, value in (part.partition("=") for part in query.split("&") if part)}
    unknown = given.keys() - {"arch", "count", "seed"}
    if unknown:
        raise SourceError(f"family:{name} has no option {min(unknown)!r}; it takes arch, or count and seed")
    if "arch" in given:
        if len(given) > 1:
            raise SourceError(
                f"family:{text} names one member; leave out {' and '.join(sorted(given.keys() - {'arch'}))}"
            )
        yield families.member(chosen, given["arch"])
    elif given.get("count") == "all":
        yield from families.enumerated(name)
    else:
        yield from families.sample(name, _whole(text, given, "count", 1), _whole(text, given, "seed", 0))


def _whole(text: str, given: Mapping[str, str], option: str, default: int) -> int:
    value = given.get(option, str(default))
    if not re.fullmatch(r"\d{1,18}", value) or (option == "count" and not int(value)):
        raise SourceError(f"family:{text}: {option}={value} is no whole number; write it like count=5000&seed=0")
    return int(value)


def _number(option: str, value: str) -> int | float:
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    raise SourceError(f"zoo option {option}={value} is no number; write options like classes=10&width=0.5")


def _from_file(path: Path, name: str, example_inputs: Inputs | None) -> Model:
    names = _run(path)
    if name not in names or name.startswith("_"):
        raise SourceError(f"{path} has no {name!r}; {_candidates(names, path)}")
    found = names[name]
    if not isinstance(found, nn.Module) and callable(found):
        found = _build(found, path, name)
    if isinstance(found, ExportedProgram):
        return from_exported(found, name=name)
    if not isinstance(found, nn.Module):
        raise SourceError(
            f"{name} in {path} is a {type(found).__name__}, not a torch.nn.Module; {_candidates(names, path)}"
        )
    if example_inputs is None:
        example_inputs = names.get(f"{name}_example_inputs", names.get("example_inputs"))
    return _from_object(found, name, example_inputs, path)


def _build(builder: Any, path: Path, name: str) -> Any:
    try:
        needed = [p.name for p in inspect.signature(builder).parameters.values() if _is_required(p)]
    except (TypeError, ValueError):
        needed = []
    if needed:
        raise SourceError(
            f"{name} in {path} needs arguments ({', '.join(needed)}); write a function without any that returns the "
            "network, and name that"
        )
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_SEED)
            return builder()
    except Exception as error:
        raise SourceError(f"{name}() in {path} failed: {reason(error)}") from None


def _is_required(parameter: inspect.Parameter) -> bool:
    variadic = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    return parameter.default is parameter.empty and not variadic


def _from_object(module: nn.Module, name: str, example_inputs: Any, path: Path | None = None) -> Model:
    if example_inputs is None:
        example_inputs = getattr(module, "example_inputs", None)
    if isinstance(example_inputs, types.FunctionType | types.MethodType):
        try:
            example_inputs = example_inputs()
        except Exception as error:
            raise SourceError(f"the example inputs of {name} failed: {reason(error)}") from None
    if example_inputs is None:
        if path is None:
            raise SourceError(
                f"{name} is read by running it: give example_inputs=torch.randn(2, 3, 32, 32), or "
                "input_shape=(3, 32, 32)"
            )
        raise SourceError(
            f"{name} in {path} is read by running it on inputs of the right shape: give --input 3x32x32, or write "
            "example_inputs = torch.randn(2, 3, 32, 32) into the file"
        )
    return from_module(module, example_inputs, name=name)


def _unnamed(path: Path) -> Model:
    raise SourceError(f"{path} needs the name of a network, as in {path}:NAME; {_candidates(_run(path), path)}")


def _run(path: Path) -> Mapping[str, Any]:
    """What the file at ``path`` defines."""
    if not path.is_file():
        raise SourceError(f"{path} does not exist")
    name = f"netgraft_source_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    before = list(sys.path)
    # As if it were run: its neighbours can be imported, and its classes found by their module's name.
    sys.path.insert(0, str(path.resolve().parent))
    sys.modules[name] = module
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_SEED)
            spec.loader.exec_module(module)
    except SyntaxError as error:
        raise SourceError(f"{path}, line {error.lineno}: {error.msg}") from None
    except (Exception, SystemExit) as error:
        raise SourceError(f"{path} failed: {type(error).__name__}: {reason(error)}") from None
    finally:
        sys.path[:] = before
    return vars(module)


def _candidates(names: Mapping[str, Any], path: Path) -> str:
    """The names in a file that could be meant."""
    own = names["__name__"]
    found = [
        name
        for name, value in names.items()
        if not name.startswith("_")
        and (
            isinstance(value, nn.Module)
            or (inspect.isclass(value) and issubclass(value, nn.Module) and value.__module__ == own)
            or (inspect.isfunction(value) and value.__module__ == own)
        )
    ]
    return f"networks in {path.name}: {', '.join(found)}" if found else f"{path.name} holds no network"
