"""What exporters take apart, put together again: layers out of arithmetic, and layouts that only come and go.

Every rewriting computes the same up to rounding. :func:`simplify` tries every one at every node until none fits; how
they are written is in :mod:`~netgraft.convert.onnx_rewriting`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import permutations
from math import isclose, sqrt
from typing import Final

import numpy as np

from netgraft.ir import Graph, Node, TensorType, Value

from .onnx_rewriting import Net, Rewriting, Weights, match, match_node, pattern


def simplify(graph: Graph, weights: Weights) -> tuple[Graph, Weights]:
    """The graph with every pattern put together, without what nothing reads; and the weights, with new ones.

    Permutes move only if some of them meet their inverses and vanish.
    """
    still, moved = (_rewritten(graph, weights, moving) for moving in (False, True))
    best = min(still, moved, key=lambda net: sum(node.op == "permute" for node in net.nodes.values()))
    return best.graph(), best.weights


def _rewritten(graph: Graph, weights: Weights, moving: bool) -> Net:
    net = Net(graph, weights)
    net.sweep()
    for _ in range(_ROUNDS):
        changed = False
        for id in list(net.nodes):
            for rewriting in REWRITINGS.get(net.nodes[id].op, ()) if id in net.nodes else ():
                if (moving or rewriting is not _sunk) and rewriting(net, net.nodes[id]):
                    changed = True
                    break
        net.sweep()
        if not changed:
            break
    return net


_ROUNDS: Final = 50


# Patterns


_ERF = ("aten.erf.default", ("mul_scalar", "x", {"value": "a"}))
_HALVES = ("mul_scalar", ("add_scalar", _ERF, {"value": "one"}), {"value": "half"})
_GELU = (
    ("mul_scalar", ("mul", "x", ("add_scalar", _ERF, {"value": "one"})), {"value": "half"}),
    ("mul", "x", _HALVES),
    ("mul", ("mul_scalar", "x", {"value": "half"}), ("add_scalar", _ERF, {"value": "one"})),
)
_CUBE = (
    ("mul_scalar", ("pow", "x", {"exponent": "three"}), {"value": "c"}),
    ("mul_scalar", ("mul", "x", ("mul", "x", "x")), {"value": "c"}),
    ("mul_scalar", ("mul", ("mul", "x", "x"), "x"), {"value": "c"}),
)
_TANHS = tuple(
    ("add_scalar", ("tanh", ("mul_scalar", ("add", "x", cube), {"value": "b"})), {"value": "one"}) for cube in _CUBE
)
_TANH_GELU = tuple(
    pattern
    for tanh in _TANHS
    for pattern in (
        ("mul", "x", ("mul_scalar", tanh, {"value": "half"})),
        ("mul_scalar", ("mul", "x", tanh), {"value": "half"}),
        ("mul", ("mul_scalar", "x", {"value": "half"}), tanh),
    )
)
_GELU_NUMBERS = {"a": sqrt(0.5), "one": 1.0, "half": 0.5, "three": 3, "c": 0.044715, "b": sqrt(2 / np.pi)}
_SIXTH = {"three": 3.0, "sixth": 1 / 6}
_CLIPPED = ("relu6", ("add_scalar", "x", {"value": "three"}))


# Layers


def _with_bias(net: Net, node: Node) -> bool:
    """A layer without a bias, and what is added to each of its channels."""
    for value, added in permutations(node.inputs) if len(node.inputs) == 2 else ():
        layer, tensor = net.maker(value), net.constant(added)
        if layer is None or tensor is None or not net.is_sole(value) or layer.attrs.get("bias", True):
            continue
        if layer.op not in ("linear", "conv2d", "conv_transpose2d"):
            continue
        rank, width = net.types[value].rank, layer.attrs.get("out_features") or layer.attrs.get("out_channels")
        at = rank - 1 if layer.op == "linear" else 1
        lined = (1,) * (rank - tensor.ndim) + tensor.shape
        if len(lined) != rank or tensor.size != width or lined[at] != width:
            continue
        if tensor.ndim > 1 and len(net.uses[added]) > 1:
            continue
        # One vector for several layers is what an exporter found to be equal, not what the network shares.
        key = net.key(added)
        key = f"{layer.id}.bias" if key in net.claimed and f"{layer.id}.bias" not in net.weights else key
        net.claimed.add(key)
        net.weights[key] = tensor.reshape(-1)
        return net.extend(layer, node, {"bias": key}, bias=True)
    return False


def _scaled(net: Net, node: Node) -> bool:
    """A convolution, and what each of its channels is multiplied by: a batch norm that an exporter took apart."""
    for value, given in permutations(node.inputs) if len(node.inputs) == 2 else ():
        layer, tensor = net.maker(value), net.constant(given)
        if layer is None or tensor is None or not net.is_sole(value) or layer.op != "conv2d":
            continue
        width = layer.attrs["out_channels"]
        lined = (1,) * (4 - tensor.ndim) + tensor.shape
        keys = set(layer.weights.values())
        shared = any(n is not layer and keys & set(n.weights.values()) for n in net.nodes.values())
        if lined != (1, width, 1, 1) or shared:
            continue
        for key in keys:
            held = net.weights[key]
            net.weights[key] = held * tensor.reshape(-1, *[1] * (held.ndim - 1)).astype(held.dtype)
        return net.bypass(node, value)
    return False


def _layer_norm(net: Net, node: Node) -> bool:
    """(x - mean) / sqrt(mean of its square + eps), with what it is multiplied by and what is added to it."""
    over = {"dims": "d", "keepdim": "k"}
    centred = ("sub", "x", ("mean", "x", over))
    for square in (("pow", centred, {"exponent": "two"}), ("mul", centred, centred)):
        root = ("sqrt", ("add_scalar", ("mean", square, {"dims": "e", "keepdim": "l"}), {"value": "eps"}))
        for quotient in (("div", centred, root), ("mul", centred, ("pow", root, {"exponent": "minus"}))):
            found = match_node(net, quotient, node, {})
            if not found or found.get("two", 2) != 2 or found.get("minus", -1) != -1 or not found["k"]:
                continue
            shape = net.types[found["x"]].shape
            dims = sorted(d % len(shape) for d in found["d"])
            same = dims == sorted(d % len(shape) for d in found["e"]) and found["l"]
            tail = shape[len(shape) - len(dims) :]
            if same and dims == list(range(len(shape) - len(dims), len(shape))):
                attrs = {"shape": tail, "eps": found["eps"], "affine": False, "bias": False}
                return net.put(node, "layer_norm", found["x"], **attrs)
    return False


def _affine(net: Net, node: Node) -> bool:
    """A normalisation without weights, times or plus a vector."""
    role = {"mul": "weight", "add": "bias"}[node.op]
    for value, given in permutations(node.inputs) if len(node.inputs) == 2 else ():
        norm, tensor = net.maker(value), net.constant(given)
        if norm is None or tensor is None or norm.op != "layer_norm" or not net.is_sole(value):
            continue
        # The bias comes after the weight; a weight after a bias is something else.
        if tensor.shape != norm.attrs["shape"] or role in norm.weights or "bias" in norm.weights:
            continue
        return net.extend(norm, node, {role: net.key(given)}, **{"affine" if role == "weight" else role: True})
    return False


def _group_norm(net: Net, node: Node) -> bool:
    """PyTorch's group norm: channels put together, normalised by ones and zeros, put apart, times and plus vectors."""
    found = match_node(net, ("add", ("mul", ("reshape", "g"), "w"), "b"), node, {})
    if not found:
        return False
    inner, weight, bias = net.maker(found["g"]), net.constant(found["w"]), net.constant(found["b"])
    if inner is None or inner.op != "group_norm" or weight is None or bias is None:
        return False
    outer = net.maker(inner.inputs[0])
    x = outer.inputs[0] if outer is not None and outer.op == "reshape" else None
    neutral = inner.attrs["affine"] and np.all(net.weights[inner.weights["weight"]] == 1)
    if x is None or net.types[x] != net.types[node.value()] or not neutral or net.weights[inner.weights["bias"]].any():
        return False
    shape, groups = net.types[x].shape, inner.attrs["groups"]
    channels = (shape[1], *[1] * (len(shape) - 2))
    grouped = net.types[inner.inputs[0]].shape
    if weight.shape != channels or bias.shape != channels or grouped[:2] != (shape[0], groups):
        return False
    keys = {}
    for role, value, tensor in (("weight", found["w"], weight), ("bias", found["b"], bias)):
        keys[role] = net.key(value)
        if len(net.uses[value]) > 1:
            return False
        net.weights[keys[role]] = tensor.reshape(-1)
    return net.put(node, "group_norm", x, weights=keys, groups=groups, eps=inner.attrs["eps"])


def _attention(net: Net, node: Node) -> bool:
    """softmax(q k^T * scale + mask) v, wherever the scale is applied."""
    soft = net.maker(node.inputs[0])
    if soft is None or soft.op != "softmax" or not net.is_sole(soft.value()):
        return False
    rank = net.types[soft.value()].rank
    if rank < 3 or soft.attrs["dim"] % rank != rank - 1:
        return False
    scores, masks = soft.inputs[0], tuple[Value, ...]()
    found = match(net, ("add", ("mul_scalar", ("matmul", "q", "k"), {"value": "s"}), "m"), scores, {})
    found = found or match(net, ("add", ("matmul", "q", "k"), "m"), scores, {})
    if found:
        masks = (found["m"],)
    else:
        found = match(net, ("mul_scalar", ("matmul", "q", "k"), {"value": "s"}), scores, {})
        found = found or match(net, ("matmul", "q", "k"), scores, {})
    if not found:
        return False
    scale = found.get("s", 1.0)
    sides = []
    for side in (found["q"], found["k"]):
        part = net.maker(side)
        if part is not None and part.op == "mul_scalar":
            scale, side = scale * part.attrs["value"], part.inputs[0]
        sides.append(side)
    query, key = sides
    value = _unswapped(net, node, key)
    if value is None:
        return False
    wide = net.types[query].shape[-1]
    default = isinstance(wide, int) and isclose(scale, wide**-0.5, rel_tol=1e-5)
    values = (query, value, node.inputs[1], *masks)
    return net.put(node, "attention", *values, scale=None if default else scale)


def _unswapped(net: Net, node: Node, key: Value) -> Value | None:
    """Transposed keys as they were before that; other changes of layout that came with it become nodes of their own."""
    shape, turned = net.types[key].shape, net.maker(key)
    split = turned is not None and turned.op == "reshape" and net.types[turned.inputs[0]].shape[-2:] == shape[-2:]
    if turned is not None and split:
        turned = net.maker(turned.inputs[0])
    if turned is None or turned.op != "permute":
        return None
    rank = len(turned.attrs["dims"])
    dims = [d % rank for d in turned.attrs["dims"]]
    swapped = (*dims[:-2], dims[-1], dims[-2])
    value = turned.inputs[0]
    if swapped != tuple(range(rank)):
        value = net.before(node, "key", "permute", value, dims=swapped)
    return net.before(node, "heads", "reshape", value, shape=(*shape[:-2], shape[-1], shape[-2])) if split else value


# Layout


def _pixels(net: Net, node: Node) -> bool:
    """Pixel shuffling written as reshape, permute, reshape."""
    found = match_node(net, ("reshape", ("permute", ("reshape", "x"), {"dims": "d"})), node, {})
    if not found or len(found["d"]) != 6:
        return False
    n, c, *size = net.types[found["x"]].shape
    permuted = net.maker(node.inputs[0])
    assert permuted is not None, "it matched"
    middle = net.types[permuted.inputs[0]].shape
    after = net.types[node.value()].shape
    if len(size) != 2 or len(after) != 4 or not all(isinstance(d, int) for d in (c, *size, *middle[1:])):
        return False
    h, w = size
    if tuple(found["d"]) == (0, 1, 4, 2, 5, 3) and middle[2] == middle[3] and middle[4:] == (h, w):
        return net.put(node, "pixel_shuffle", found["x"], factor=middle[2])
    if tuple(found["d"]) == (0, 1, 3, 5, 2, 4) and middle[3] == middle[5] and middle[:2] == (n, c):
        return net.put(node, "pixel_unshuffle", found["x"], factor=middle[3])
    return False


def _swapped(net: Net, node: Node) -> bool:
    """A swap of the last two dimensions, for which all others were joined and taken apart again."""
    found = match_node(net, ("reshape", ("permute", ("reshape", "x"), {"dims": "d"})), node, {})
    if not found or tuple(found["d"]) != (0, 2, 1):
        return False
    have, want = net.types[found["x"]].shape, net.types[node.value()].shape
    middle = net.types[node.inputs[0]].shape
    if len(have) < 4 or want != (*have[:-2], have[-1], have[-2]) or middle[1:] != want[-2:]:
        return False
    return net.put(node, "permute", found["x"], dims=(*range(len(have) - 2), len(have) - 1, len(have) - 2))


def _no_change(net: Net, node: Node) -> bool:
    """What changes nothing: plus zero, times one, a reshape to the same shape."""
    neutral = {"add_scalar": 0, "mul_scalar": 1, "pow": 1}
    if node.op in neutral:
        nothing = node.attrs["exponent" if node.op == "pow" else "value"] == neutral[node.op]
    elif node.op == "permute":
        nothing = list(node.attrs["dims"]) == list(range(len(node.attrs["dims"])))
    else:
        nothing = net.types[node.value()] == net.types[node.inputs[0]]
    return nothing and net.bypass(node, node.inputs[0])


def _chained(net: Net, node: Node) -> bool:
    """Two changes of layout in a row are one; two factors, one."""
    first = net.maker(node.inputs[0])
    if first is None or first.op != node.op:
        return False
    if node.op == "reshape":
        return net.put(node, "reshape", first.inputs[0], shape=net.types[node.value()].shape)
    if node.op == "permute":
        rank = len(node.attrs["dims"])
        dims = tuple(first.attrs["dims"][d % rank] % rank for d in node.attrs["dims"])
        return net.put(node, "permute", first.inputs[0], dims=dims)
    if not net.is_sole(first.value()):
        return False
    return net.put(node, "mul_scalar", first.inputs[0], value=first.attrs["value"] * node.attrs["value"])


_UNARY: Final = frozenset(
    [
        "relu",
        "relu6",
        "leaky_relu",
        "elu",
        "gelu",
        "silu",
        "mish",
        "sigmoid",
        "tanh",
        "hardswish",
        "hardsigmoid",
        "softplus",
        "clamp",
        "sqrt",
        "pow",
        "exp",
        "add_scalar",
        "mul_scalar",
        "dropout",
        "identity",
    ]
)


def _sunk(net: Net, node: Node) -> bool:
    """Moves a permute from in front of a node to behind it, where it may meet its inverse: of everything that does not
    care for the order of dimensions.
    """
    first = net.maker(node.inputs[0]) if node.inputs else None
    if first is None or first.op != "permute" or node.value() in net.outputs:
        return False
    dims = tuple(d % len(first.attrs["dims"]) for d in first.attrs["dims"])
    if not all(net.is_sole(v) or net.constant(v) is not None or _turned(net, v, dims) for v in node.inputs):
        return False
    values, attrs = _unturned(net, node, dims), dict(node.attrs)
    if values is None:
        return False
    after: tuple[int, ...] = dims
    if node.op in ("concat", "softmax", "log_softmax"):
        attrs["dim"] = dims[attrs["dim"] % len(dims)]
    elif node.op == "pad":
        pads = list(attrs["pads"]) + [0] * (2 * len(dims) - len(attrs["pads"]))
        by_axis = {dims[len(dims) - 1 - i]: pads[2 * i : 2 * i + 2] for i in range(len(dims))}
        attrs["pads"] = tuple(p for axis in reversed(range(len(dims))) for p in by_axis[axis])
        while attrs["pads"] and not any(attrs["pads"][-2:]):
            attrs["pads"] = attrs["pads"][:-2]
        if attrs["mode"] != "constant" and len(attrs["pads"]) > 4:
            return False
    elif node.op in ("mean", "sum"):
        over = {dims[d % len(dims)] for d in attrs["dims"]}
        attrs["dims"] = tuple(sorted(over))
        if not attrs["keepdim"]:
            left = [d for d in range(len(dims)) if d not in over]
            after = tuple(left.index(d) for d in dims if d not in over)
    elif node.op == "slice":
        attrs["dim"] = dims[attrs["dim"] % len(dims)]
    moved = net.before(node, "core", node.op, *values, **attrs)
    if node.weights:
        net.nodes[moved.node] = replace(net.nodes[moved.node], weights=node.weights)
    return net.put(node, "permute", moved, dims=after)


def _turned(net: Net, value: Value, dims: tuple[int, ...]) -> Value | None:
    """What a value is a permute of, by ``dims``."""
    node = net.maker(value)
    same = node is not None and node.op == "permute" and tuple(d % len(dims) for d in node.attrs["dims"]) == dims
    return node.inputs[0] if node is not None and same else None


def _unturned(net: Net, node: Node, dims: tuple[int, ...]) -> list[Value] | None:
    """The inputs of a node as they are before the permute that all of them come through; constants are turned back."""
    values: list[Value] = []
    inverse = tuple(int(i) for i in np.argsort(dims))
    for value in node.inputs:
        before, tensor = _turned(net, value, dims), net.constant(value)
        if before is not None:
            values.append(before)
        elif tensor is not None and tensor.ndim <= len(dims) and net.is_sole(value):
            held = net.maker(value)
            assert held is not None
            lined = tensor.reshape((1,) * (len(dims) - tensor.ndim) + tensor.shape).transpose(inverse)
            type_ = TensorType(lined.shape, net.types[value].dtype)
            net.weights[held.weights["value"]] = np.ascontiguousarray(lined)
            net.nodes[held.id] = replace(held, attrs={**held.attrs, "type": type_})
            net.types[value] = type_
            values.append(value)
        else:
            return None
    return values


REWRITINGS: Final[Mapping[str, tuple[Rewriting, ...]]] = {
    "mul": (
        pattern("silu", ("mul", "x", ("sigmoid", "x"))),
        pattern("hardswish", ("mul", "x", ("hardsigmoid", "x"))),
        pattern("mish", ("mul", "x", ("tanh", ("softplus", "x")))),
        pattern("hardswish", ("mul", "x", ("mul_scalar", _CLIPPED, {"value": "sixth"})), numbers=_SIXTH),
        pattern("gelu", *_GELU[1:], numbers=_GELU_NUMBERS),
        pattern("gelu", *_TANH_GELU, numbers=_GELU_NUMBERS, approximate="tanh"),
        _layer_norm,
        _affine,
        _scaled,
        _sunk,
    ),
    "mul_scalar": (
        pattern("gelu", _GELU[0], numbers=_GELU_NUMBERS),
        pattern("gelu", *_TANH_GELU, numbers=_GELU_NUMBERS, approximate="tanh"),
        pattern("hardswish", ("mul_scalar", ("mul", "x", _CLIPPED), {"value": "sixth"}), numbers=_SIXTH),
        pattern("hardsigmoid", ("mul_scalar", _CLIPPED, {"value": "sixth"}), numbers=_SIXTH),
        _no_change,
        _chained,
        _sunk,
    ),
    "div": (_layer_norm, _sunk),
    "add": (_with_bias, _affine, _group_norm, _sunk),
    "sub": (_sunk,),
    "concat": (_sunk,),
    "add_scalar": (_no_change, _sunk),
    "pow": (_no_change, _sunk),
    "matmul": (_attention,),
    "reshape": (_pixels, _swapped, _no_change, _chained),
    "permute": (_no_change, _chained),
    "mean": (_sunk,),
    "sum": (_sunk,),
    "pad": (_sunk,),
    "slice": (_sunk,),
    "softmax": (_sunk,),
} | {op: (_sunk,) for op in _UNARY - {"mul_scalar", "add_scalar", "pow"}}
"""What is tried at the nodes of each op."""
