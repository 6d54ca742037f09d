"""What programs of loop nests compute, loop by loop: the definition that everything else is tested against."""

from __future__ import annotations

from itertools import product
from math import prod

import numpy as np
import numpy.typing as npt

from netgraft.ir import TensorType
from netgraft.ir.carry import resolve
from netgraft.loops.nest import Chain, Layer, Nest, Parts, Program, Sum

Floats = npt.NDArray[np.floating]


def interpret(program: Program, x: Floats, weights: dict[str, Floats]) -> Floats:
    """The output [O, places...] of a program for one example ``x`` [I, sizes...]; NaN where nothing is computed."""
    match program:
        case Nest():
            return _nest(program, x, weights)
        case Chain(first, second, False):
            return interpret(second, interpret(first, x, weights), weights)
        case Sum(parts):
            return np.sum([interpret(part, x, weights) for part in parts], axis=0)
        case Parts(_, parts):
            found = interpret(parts[0], x, weights)
            for part in parts[1:]:
                more = interpret(part, x, weights)
                assert (np.isnan(found) | np.isnan(more)).all(), "two parts compute the same output"
                found = np.where(np.isnan(found), more, found)
            return found
    raise AssertionError(program)


def _nest(nest: Nest, x: Floats, weights: dict[str, Floats]) -> Floats:
    layer = nest.layer
    kernel = tensor(layer, weights)
    out = np.full((layer.outputs, *layer.places), np.nan)
    names = [loop.name for loop in nest.loops]

    def at(dimension: str, iteration: dict[str, int]) -> int:
        index = nest.index[dimension]
        return index.offset + sum(factor * iteration[name] for name, factor in index.terms)

    dims = ["o", *(f"y{side}" for side in layer.sides)]
    for numbers in product(*(range(loop.extent) for loop in nest.loops)):
        now = dict(zip(names, numbers, strict=True))
        place = tuple(at(name, now) for name in dims)
        taps = tuple(at(f"k{side}", now) for side in layer.sides)
        read = [
            layer.stride[side] * place[1 + side] + layer.dilation[side] * taps[side] - layer.padding[side]
            for side in layer.sides
        ]
        inside = all(0 <= r < size for r, size in zip(read, layer.sizes, strict=True))
        term = kernel[(place[0], at("w", now), *taps)] * x[(at("i", now), *read)] if inside else 0.0
        if np.isnan(out[place]):
            bias = (
                0.0
                if layer.bias is None
                else resolve(layer.bias, weights, "bias", TensorType((layer.outputs,)), _RNG)[0][place[0]]
            )
            out[place] = bias
        out[place] += term
    # What was not reached is a copy.
    copied = out.copy()
    written = [loop for loop in nest.loops if any(nest.index[name].factor(loop.name) for name in dims)]
    for numbers in product(*(range(loop.full) for loop in written)):
        full = {loop.name: n for loop, n in zip(written, numbers, strict=True)}
        now = {loop.name: n % loop.extent for loop, n in zip(written, numbers, strict=True)}
        copied[tuple(at(name, full) for name in dims)] = out[tuple(at(name, now) for name in dims)]
    return copied


_RNG = np.random.default_rng(0)


def tensor(layer: Layer, weights: dict[str, Floats]) -> Floats:
    """The kernel of a layer."""
    shape = (layer.outputs, layer.inputs // layer.groups, *layer.kernel)
    return resolve(layer.weight, weights, "weight", TensorType(shape), _RNG)[0]


def size(nest: Nest) -> int:
    """How many iterations the interpreter goes through."""
    return prod(loop.extent for loop in nest.loops)
