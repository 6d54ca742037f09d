"""Graphs as source: a readable ``model.py`` that needs torch alone and loads the network's weights strictly.

The names of the weights spell a tree of modules. Every place in it that runs as a block of its own
(:mod:`netgraft.convert.scopes`) becomes an ``nn.Sequential`` or a class; blocks whose code differs only in the values
of arguments share one class, and those arguments are its parameters.
"""

from __future__ import annotations

import inspect
import keyword
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final

from torch import nn

from netgraft.convert.body import Body, Statement
from netgraft.convert.code import WIDTH, Apply, Argument, Code, Instance, Origin, Slot, Slots, fill, layout, literal
from netgraft.convert.expressions import HELPERS, Layer, dtype
from netgraft.convert.lowering import layer
from netgraft.convert.onnx_foreign import is_foreign
from netgraft.convert.operations import TORCH_DTYPES
from netgraft.convert.scopes import Flow, Path, Place, Scope, scopes
from netgraft.errors import ConversionError
from netgraft.ir import DType, Graph, Node

_NEVER_SET: Final = frozenset({"device", "inplace", "padding_mode", "track_running_stats", "elementwise_affine"})
"""Constructor arguments that no op has."""

_CHANNELS: Final = frozenset(
    {
        "in_channels",
        "out_channels",
        "in_features",
        "out_features",
        "num_features",
        "num_channels",
        "normalized_shape",
        "groups",
        "size",
    }
)
"""Arguments that count channels: equal values of these are one parameter."""


def emit(graph: Graph, *, class_name: str = "Network") -> str:
    """The network as the text of a Python file with a class ``class_name``.

    ``class_name()`` takes no arguments, its state dict has the graph's weight keys, and its forward takes the graph's
    inputs. The same graph always gives the same text. ConversionError where a key can be no name in a module, and
    for operations that torch does not have.
    """
    if not _is_plain(class_name) or class_name in _TAKEN:
        raise ConversionError(f"{class_name!r} cannot be the name of a class")
    for node in graph:
        if node.op == "frozen" and is_foreign(node.attrs):
            raise ConversionError(
                f"{node.id} is {node.attrs['target']}, an operation of ONNX's that torch does not have"
            )
    return _Writer(graph, class_name).text()


_TAKEN: Final = frozenset({"F", "Tensor", "nn", "torch"}) | HELPERS.keys()


@dataclass(frozen=True, slots=True)
class _Template:
    """The code of a class, the same for all blocks that share it."""

    base: str
    elements: tuple[Code, ...]
    init: tuple[Statement, ...]
    arguments: tuple[str, ...]
    forward: tuple[Statement, ...]
    origins: tuple[Origin, ...]


@dataclass(frozen=True, slots=True)
class _Parameter:
    """A parameter of a class's constructor: the slots it fills, its annotation, and its default as text."""

    name: str
    slots: tuple[int, ...]
    annotation: str
    default: str | None


@dataclass
class _Class:
    """A template with the blocks that are objects of it."""

    template: _Template
    places: list[Place] = field(default_factory=list)
    values: list[list[Any]] = field(default_factory=list)
    name: str = ""
    parameters: list[_Parameter] = field(default_factory=list)

    @property
    def constants(self) -> dict[int, str]:
        """The slots that have the same value everywhere, as text."""
        columns = (list(map(literal, column)) for column in zip(*self.values, strict=True))
        return {i: texts[0] for i, texts in enumerate(columns) if len(set(texts)) == 1}


class _Writer:
    def __init__(self, graph: Graph, class_name: str) -> None:
        self.flow = Flow(graph)
        self.whole = scopes(self.flow)
        self.blocks = {scope.place.path: scope for scope in _all(self.whole)}
        self._sequences = {path: self._sequence(scope) for path, scope in self.blocks.items()}
        self._check(self.flow.root)
        # Once with a class for every block, to see which occur often; then the rest of the sequences in place.
        self._named = set(self.blocks)
        self._write_classes()
        self._named = self._worth_a_name()
        self._write_classes()
        taken = set(_TAKEN) | {class_name}
        for a_class in self.classes[:-1]:
            a_class.name = _unused(_class_name(a_class), taken)
            taken.add(a_class.name)
        self.classes[-1].name = class_name
        for a_class in self.classes:
            a_class.parameters = _parameters(a_class)

    def _write_classes(self) -> None:
        self.classes: list[_Class] = []
        self._numbers: dict[_Template, int] = {}
        self._instance(self.whole, Slots())

    def _worth_a_name(self) -> set[Path]:
        """The blocks that are classes: what is no sequence, and sequences of three layers that occur three times."""

        def layers(code: Code) -> int:
            inside = self.classes[code.template].template.elements if isinstance(code, Instance) else ()
            return sum(map(layers, inside)) or 1

        named = {path for path, sequence in self._sequences.items() if sequence is None}
        for a_class in self.classes:
            if len(a_class.places) >= 3 and sum(map(layers, a_class.template.elements)) >= 3:
                named.update(place.path for place in a_class.places)
        return named

    def text(self) -> str:
        """The file."""
        code = "\n\n\n".join("\n".join(self._class_lines(a_class)) for a_class in self.classes)
        helpers = [inspect.getsource(helper).rstrip() for name, helper in HELPERS.items() if f"{name}(" in code]
        code = "\n\n\n".join([*helpers, *_last_resorts(code), code])
        imports = ["import torch"] if "torch." in code else []
        imports += ["import torch.nn.functional as F"] if re.search(r"\bF\.", code) else []
        imports.append("from torch import Tensor, nn" if "Tensor" in code else "from torch import nn")
        return "\n".join([*self._head(), "", "from __future__ import annotations", "", *imports, "", "", code, ""])

    def _head(self) -> list[str]:
        graph, name = self.flow.graph, self.classes[-1].name
        inputs, outputs = (", ".join(map(str, types)) for types in (graph.signature.inputs, graph.signature.outputs))
        return [
            f'"""{inputs} -> {outputs}, written by netgraft; it needs torch only.',
            "",
            "To load its weights:",
            "",
            "    from safetensors.torch import load_file",
            f"    network = {name}()",
            '    network.load_state_dict(load_file("weights.safetensors"))',
            '"""',
        ]

    def _check(self, place: Place) -> None:
        for name in (*place.children, *place.tensors):
            twice = name in place.tensors and name in place.children
            if not name or twice or name == "training" or hasattr(nn.Module, name):
                path = ".".join((*place.path, name))
                raise ConversionError(f"no torch module can hold something called {path!r}; rename that weight")
        for child in place.children.values():
            self._check(child)

    # The tree of modules

    def _is_element(self, place: Place) -> bool:
        """Whether ``place`` can be written as one expression."""
        if place.layer:
            return not place.children and not place.tensors
        return place.path in self.blocks or self._is_list(place)

    def _is_list(self, place: Place) -> bool:
        """Whether ``place`` can be an ``nn.ModuleList``."""
        if place.layer or place.tensors or not place.children:
            return False
        numbered = place.children.keys() == {str(i) for i in range(len(place.children))}
        return numbered and all(map(self._is_element, place.children.values()))

    def _element(self, place: Place, slots: Slots, owner: Path) -> Code:
        if place.layer:
            return _construct(place.layer, slots, owner)
        scope = self.blocks.get(place.path)
        if scope is None:
            return Apply("nn.ModuleList", (Apply("", self._elements(place, slots, owner), "[]"),))
        sequence = self._sequences[place.path]
        if sequence is None or place.path in self._named:
            return self._instance(scope, slots, owner)
        return Apply("nn.Sequential", self._sequence_elements(sequence, slots, owner))

    def _elements(self, place: Place, slots: Slots, owner: Path) -> tuple[Code, ...]:
        return tuple(self._element(place.children[str(i)], slots, (*owner, str(i))) for i in range(len(place.children)))

    def _sequence_elements(self, sequence: tuple[Place | Layer, ...], slots: Slots, owner: Path) -> tuple[Code, ...]:
        return tuple(
            _construct(step, slots, (*owner, str(i)))
            if isinstance(step, Layer)
            else self._element(step, slots, (*owner, str(i)))
            for i, step in enumerate(sequence)
        )

    def _sequence(self, scope: Scope) -> tuple[Place | Layer, ...] | None:
        """What an ``nn.Sequential`` of this block would hold; None where it cannot be one."""
        if len(scope.entering) != 1 or len(scope.leaving) != 1 or scope.place.tensors or not scope.items:
            return None
        current = scope.entering[0]
        steps: list[Place | Layer] = []
        for item in scope.items:
            if self.flow.reads_of(item) != (current,) or len(self.flow.outputs_of(item)) != 1:
                return None
            (current,) = self.flow.outputs_of(item)
            path = item.place.path if isinstance(item, Scope) else self.flow.layers.get(item.id)
            if path is None:
                form = self._stateless(item)
                if form is None:
                    return None
                steps.append(form)
                continue
            name = path[-1]
            if path[:-1] != scope.place.path or not re.fullmatch(r"0|[1-9]\d*", name) or int(name) < len(steps):
                return None
            steps += [Layer("Identity", ())] * (int(name) - len(steps))
            steps.append(scope.place.children[name])
        held = [step for step in steps if isinstance(step, Place)]
        complete = len(held) == len(scope.place.children) and all(map(self._is_element, held))
        return tuple(steps) if complete and current == scope.leaving[0] else None

    def _stateless(self, item: Node | Scope) -> Layer | None:
        if isinstance(item, Scope) or item.weights:
            return None
        return layer(item, self.flow.graph.input_types(item))

    # Classes

    def _instance(self, scope: Scope, slots: Slots, owner: Path = ()) -> Instance:
        own = Slots()
        template = self._template(scope, own)
        number = self._numbers.setdefault(template, len(self.classes))
        if number == len(self.classes):
            self.classes.append(_Class(template))
        self.classes[number].places.append(scope.place)
        self.classes[number].values.append(own.values)
        return Instance(number, slots.include(own, owner))

    def _template(self, scope: Scope, slots: Slots) -> _Template:
        place = scope.place
        sequence = self._sequences[place.path]
        if sequence is not None:
            elements = self._sequence_elements(sequence, slots, ())
            return _Template("nn.Sequential", elements, (), (), (), tuple(slots.origins))
        if self._is_list(place):
            base, elements = "nn.ModuleList", (Apply("", self._elements(place, slots, ()), "[]"),)
            init: tuple[Statement, ...] = ()
        else:
            base, elements = "nn.Module", ()
            init = tuple(self._fill_place(place, "self", slots, ()))
        body = Body(self.flow, scope, slots, lambda path: self._access(place, path), root=not place.path)
        return _Template(base, elements, init, body.arguments, tuple(body.statements), tuple(slots.origins))

    def _fill_place(self, place: Place, target: str, slots: Slots, owner: Path) -> Iterator[Statement]:
        """The statements that put what ``place`` holds into the module ``target``."""
        for name, child in place.children.items():
            whole = self._is_element(child)
            if whole:
                code = self._element(child, slots, (*owner, name))
            else:
                code = _construct(child.layer or Layer("Module", ()), slots, (*owner, name))
            if _is_plain(name):
                yield Statement(f"{target}.{name}", code)
            else:
                yield Statement("", Apply(f"{target}.add_module", (literal(name), code)))
            if not whole:
                yield from self._fill_place(child, _attribute(target, name), slots, (*owner, name))
        for name, key in place.tensors.items():
            yield self._tensor(key, name, target, slots)

    def _tensor(self, key: str, name: str, target: str, slots: Slots) -> Statement:
        type_ = self.flow.graph.weight_types[key]
        shape = tuple(slots.add(size, "size", (name,)) for size in type_.shape)
        zeros: Code = Apply("torch.zeros", shape or ("()",))
        if type_.dtype is not DType.F32:
            zeros = Apply("torch.zeros", (*(shape or ("()",)), Argument(literal(dtype(type_.dtype)), "dtype")))
        if key not in self.flow.graph.trainable:
            return Statement("", Apply(f"{target}.register_buffer", (literal(name), zeros)))
        kind = TORCH_DTYPES[type_.dtype]
        fixed = () if kind.is_floating_point or kind.is_complex else (Argument("False", "requires_grad"),)
        parameter = Apply("nn.Parameter", (zeros, *fixed))
        if _is_plain(name):
            return Statement(f"{target}.{name}", parameter)
        return Statement("", Apply(f"{target}.register_parameter", (literal(name), parameter)))

    def _access(self, place: Place, path: Path) -> str:
        """How the module of ``place`` reaches what lies at ``path``."""
        text = "self"
        for name in path[len(place.path) :]:
            text = f"{text}[{name}]" if self._is_list(place) else _attribute(text, name)
            place = place.children.get(name, place)
        return text

    # Text

    def _class_lines(self, a_class: _Class) -> Iterator[str]:
        template = a_class.template
        constants = a_class.constants
        names = {index: parameter.name for parameter in a_class.parameters for index in parameter.slots}
        attributes: list[str] = []

        def in_init(index: int) -> str:
            return constants.get(index) or names[index]

        def in_forward(index: int) -> str:
            if index in constants:
                return constants[index]
            if names[index] not in attributes:
                attributes.append(names[index])
            return f"self.{names[index]}"

        def lines(statement: Statement, slot: Any, indent: int) -> list[str]:
            target = statement.target
            before = "return " if target == "return" else f"{target} = " if target else ""
            return layout(before, fill(statement.code, slot, lambda i: self._made(i, slot)), "", indent)

        forward = [line for statement in template.forward for line in lines(statement, in_forward, 8)]
        yield f"class {a_class.name}({template.base}):"
        yield from _docstring(a_class)
        elements = tuple(fill(code, in_init, lambda i: self._made(i, in_init)) for code in template.elements)
        init = [line for statement in template.init for line in lines(statement, in_init, 8)]
        init += [f"        self.{name} = {name}" for name in attributes]
        if init or elements or a_class.parameters:
            signature = Apply("__init__", ("self", *(_declared(p) for p in a_class.parameters)))
            yield from layout("def ", signature, " -> None:", 4)
            yield from layout("", Apply("super().__init__", elements), "", 8)
            yield from init
        if forward:
            if init or elements or a_class.parameters:
                yield ""
            arguments = tuple(f"{name}: Tensor" for name in template.arguments)
            count = len(self.blocks[a_class.places[0].path].leaving)
            returns = "Tensor" if count == 1 else f"tuple[{', '.join(['Tensor'] * count)}]"
            yield from layout("def ", Apply("forward", ("self", *arguments)), f" -> {returns}:", 4)
            yield from forward

    def _made(self, instance: Instance, slot: Any) -> Code:
        made = self.classes[instance.template]
        arguments: list[Code | Argument] = []
        for parameter in made.parameters:
            value = Slot(instance.first + parameter.slots[0])
            arguments.append(Argument(value, parameter.name, parameter.default) if parameter.default else value)
        return fill(Apply(made.name, tuple(arguments)), slot, lambda inner: self._made(inner, slot))


def _last_resorts(code: str) -> Iterator[str]:
    """A comment about operations that are called by their internal names."""
    if found := sorted(set(re.findall(r"torch\.ops\.([\w.]+)", code))):
        yield f"# No public function of torch does quite the same as torch.ops.{', torch.ops.'.join(found)}."


def _all(scope: Scope) -> Iterator[Scope]:
    yield scope
    for item in scope.items:
        if isinstance(item, Scope):
            yield from _all(item)


def _is_plain(name: str) -> bool:
    """Whether ``name`` can stand after a dot (two leading underscores would be mangled inside a class)."""
    return bool(re.fullmatch(r"(?!__)[A-Za-z_][A-Za-z0-9_]*", name)) and not keyword.iskeyword(name)


def _attribute(text: str, name: str) -> str:
    return f"{text}.{name}" if _is_plain(name) else f"getattr({text}, {literal(name)})"


@cache
def _signature(cls: str) -> tuple[inspect.Parameter, ...]:
    return tuple(inspect.signature(getattr(nn, cls)).parameters.values()) if cls != "Module" else ()


def _construct(form: Layer, slots: Slots, owner: Path) -> Code:
    """``nn.Conv2d(3, 16, 3, padding=1)``: each argument a slot, those at their default included (blocks may differ)."""
    arguments: list[Code | Argument] = []
    for position, parameter in enumerate(_signature(form.cls)):
        name = parameter.name
        if position < len(form.args):
            arguments.append(slots.add(form.args[position], name, owner))
        elif name not in _NEVER_SET and parameter.default is not inspect.Parameter.empty:
            default = literal(parameter.default)
            value = form.kwargs.get(name, parameter.default)
            arguments.append(Argument(slots.add(value, name, owner, default), name, default))
    return Apply(f"nn.{form.cls}", tuple(arguments))


def _class_name(a_class: _Class) -> str:
    """A short sequence is called after its layers (ConvBatchNormReLU); otherwise ``down_sample`` is a DownSample, and a
    numbered place is a Block.
    """
    layers = [e.head for e in a_class.template.elements if isinstance(e, Apply) and isinstance(e.head, str)]
    if a_class.template.base == "nn.Sequential" and len(layers) == len(a_class.template.elements) <= 3:
        return "".join(re.sub(r"\dd$", "", head.removeprefix("nn.")) for head in layers)
    path = a_class.places[0].path
    words = re.findall(r"[A-Za-z0-9]+", path[-1]) if path else []
    name = "".join(word[0].upper() + word[1:] for word in words)
    return name if name[:1].isalpha() else "Block"


def _unused(name: str, taken: set[str]) -> str:
    candidate, count = name, 1
    while candidate in taken:
        count += 1
        candidate = f"{name}{count}"
    return candidate


def _docstring(a_class: _Class) -> Iterator[str]:
    places = [".".join(place.path) for place in a_class.places]
    if len(places) > 1 and all(re.fullmatch(r"[\w.-]+", name) for name in places):
        yield f'    """{_listed(places, WIDTH - 11)}."""'
        yield ""


def _listed(names: Sequence[str], width: int) -> str:
    """The first four names, or as many as ``width`` has room for, and how many more there are."""
    for shown in range(min(4, len(names)), 0, -1):
        rest = len(names) - shown
        text = ", ".join(names[:shown]) + (f" and {rest} more" if rest else "")
        if len(text) <= width:
            break
    return text


def _declared(parameter: _Parameter) -> str:
    default = f" = {parameter.default}" if parameter.default else ""
    return f"{parameter.name}: {parameter.annotation}{default}"


def _parameters(a_class: _Class) -> list[_Parameter]:
    """One parameter for each group of slots that differ between the class's blocks in the same way."""
    origins = a_class.template.origins
    constants = a_class.constants
    groups: dict[object, list[int]] = {}
    for index, column in enumerate(zip(*a_class.values, strict=True)):
        if index not in constants:
            kind = "channels" if origins[index].name in _CHANNELS else origins[index].name
            groups.setdefault((kind, tuple(map(literal, column))), []).append(index)
    place = a_class.places[0]
    taken = {*dir(nn.Module), "training", "self", "nn", "torch", "F", *place.children, *place.tensors}
    names = _parameter_names(list(groups.values()), origins, taken)
    parameters = []
    for slots, name in zip(groups.values(), names, strict=True):
        values = [row[slots[0]] for row in a_class.values]
        default = origins[slots[0]].default
        if any(origins[i].default != default for i in slots) or default not in [literal(value) for value in values]:
            default = None
        annotation = " | ".join(sorted({_annotation(value) for value in values}))
        parameters.append(_Parameter(name, tuple(slots), annotation, default))
    return sorted(parameters, key=lambda p: p.default is not None)


def _parameter_names(groups: list[list[int]], origins: tuple[Origin, ...], taken: set[str]) -> list[str]:
    stems = [_stem(group, origins) for group in groups]
    # Of several "out_channels", the last is what leaves the block; the others are called after their layer.
    last = {stem: position for position, stem in enumerate(stems)}
    first = {stem: position for position, stem in reversed(list(enumerate(stems)))}
    names: list[str] = []
    for position, (stem, group) in enumerate(zip(stems, groups, strict=True)):
        keeps = first[stem] if stem.startswith("in_") else last[stem]
        owner = "_".join(re.findall(r"[A-Za-z0-9]+", "_".join(origins[group[0]].owner)))
        name = stem if keeps == position or not owner else f"{owner}_{stem.removeprefix('in_').removeprefix('out_')}"
        name = name if _is_plain(name) else f"block_{name}"
        name = name if name not in taken else _unused(f"{name}_", taken)
        taken.add(name)
        names.append(name)
    return names


def _stem(group: list[int], origins: tuple[Origin, ...]) -> str:
    names = Counter(origins[i].name for i in group)
    first = origins[group[0]].name
    if first in ("in_channels", "in_features") and ("out_" + first[3:]) in names:
        return first[3:]
    return {"num_features": "channels", "num_channels": "channels", "normalized_shape": "features"}.get(first, first)


def _annotation(value: Any) -> str:
    if isinstance(value, tuple):
        return f"tuple[{', '.join(map(_annotation, value))}]"
    known = {int: "int", float: "float", bool: "bool", str: "str", type(None): "None"}
    return known.get(type(value), "torch.dtype")
