"""Einstein sums of two tensors as a product of matrices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from netgraft.ir import Batch
from netgraft.ir.types import Dim

Dims = tuple[int, ...]
Shape = tuple[Dim, ...]

_X = TypeVar("_X")


def einsum(
    equation: str, operands: Sequence[_X], shape_of: Callable[[_X], Shape], emit: Callable[..., _X]
) -> _X | None:
    """Emits the sum as ``permute``, ``reshape`` and ``matmul`` (``emit(op, *inputs, **attributes)``), leaving out those
    that change nothing; None where it is no product of two matrices.
    """
    found = as_product(equation, *map(shape_of, operands)) if len(operands) == 2 else None
    if found is None:
        return None

    def permuted(x: _X, dims: Dims) -> _X:
        return x if dims == tuple(range(len(dims))) else emit("permute", x, dims=dims)

    def reshaped(x: _X, shape: Shape) -> _X:
        return x if shape_of(x) == shape else emit("reshape", x, shape=shape)

    a, b = (
        reshaped(permuted(x, dims), shape) for x, dims, shape in zip(operands, found.dims, found.shapes, strict=True)
    )
    return permuted(reshaped(emit("matmul", a, b), found.parts), found.order)


@dataclass(frozen=True, slots=True)
class Product:
    """Permute the operands by ``dims``, give them ``shapes``, multiply them as matrices, give the result the shape
    ``parts``, and permute that by ``order``.
    """

    dims: tuple[Dims, Dims]
    shapes: tuple[Shape, Shape]
    parts: Shape
    order: Dims


def as_product(equation: str, first: Shape, second: Shape) -> Product | None:
    """The product that ``equation`` (``bhld,bhsd->bhls``) means for operands of these shapes; None where it is none:
    diagonals, sums over one operand alone, stretched dimensions, nothing to sum over.
    """
    given, arrow, returned = equation.replace(" ", "").partition("->")
    terms = given.split(",")
    if not arrow or len(terms) != 2 or not "".join([*terms, returned]).isalpha():
        return None
    if any(len(set(term)) != len(term) for term in (*terms, returned)):
        return None
    if (len(terms[0]), len(terms[1])) != (len(first), len(second)):
        return None
    sizes = dict(zip(terms[0], first, strict=True)) | dict(zip(terms[1], second, strict=True))
    if any(sizes[letter] != size for letter, size in zip(terms[0], first, strict=True)):
        return None
    batch = [letter for letter in returned if letter in terms[0] and letter in terms[1]]
    summed = [letter for letter in terms[0] if letter in terms[1] and letter not in returned]
    left, right = ([letter for letter in returned if letter in own and letter not in batch] for own in terms)
    if not summed or set(terms[0] + terms[1]) != {*batch, *summed, *left, *right}:
        return None
    merged = [_merged([sizes[letter] for letter in letters]) for letters in (left, summed, right)]
    rows, inner, columns = merged
    if rows is None or inner is None or columns is None:
        return None
    lead = tuple(sizes[letter] for letter in batch)
    orders = [*batch, *left, *summed], [*batch, *summed, *right]
    made = [*batch, *left, *right]
    return Product(
        (tuple(map(terms[0].index, orders[0])), tuple(map(terms[1].index, orders[1]))),
        ((*lead, rows, inner), (*lead, inner, columns)),
        tuple(sizes[letter] for letter in made),
        tuple(map(made.index, returned)),
    )


def _merged(sizes: Sequence[Dim]) -> Dim | None:
    """Several dimensions as one; None for two that depend on the batch."""
    batches = [size for size in sizes if isinstance(size, Batch)]
    if len(batches) > 1:
        return None
    count = 1
    for size in sizes:
        count *= size.times if isinstance(size, Batch) else size
    return Batch(count) if batches else count
