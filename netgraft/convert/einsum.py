"""Einstein sums, of two tensors at a time, as a product of matrices, or as a linear layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Final, TypeVar

from netgraft.ir import Batch
from netgraft.ir.types import Dim

Dims = tuple[int, ...]
Shape = tuple[Dim, ...]

_X = TypeVar("_X")


def einsum(
    equation: str,
    operands: Sequence[_X],
    shape_of: Callable[[_X], Shape],
    two: Callable[[str, _X, _X], _X | None],
) -> _X | None:
    """The sum over two or more operands; ``two`` gives a sum over two. None where it cannot be done by products."""
    left, made = list(operands), None
    for step in steps(equation, [shape_of(x) for x in operands]):
        first, second = (left[place] for place in step.places)
        made = two(step.equation, first, second)
        if made is None:
            return None
        left = [made, *(x for place, x in enumerate(left) if place not in step.places)]
    return made


def product(equation: str, a: _X, b: _X, shape_of: Callable[[_X], Shape], emit: Callable[..., _X]) -> _X | None:
    """Emits a sum over two operands as ``permute``, ``reshape`` and ``matmul`` (``emit(op, *inputs, **attributes)``),
    leaving out those that change nothing; None where it is no product of two matrices.
    """
    found = as_product(equation, shape_of(a), shape_of(b))
    if found is None:
        return None

    def reshaped(x: _X, shape: Shape) -> _X:
        return x if shape_of(x) == shape else emit("reshape", x, shape=shape)

    left, right = (
        reshaped(permuted(x, dims, emit), shape)
        for x, dims, shape in zip((a, b), found.dims, found.shapes, strict=True)
    )
    return permuted(reshaped(emit("matmul", left, right), found.parts), found.order, emit)


@dataclass(frozen=True, slots=True)
class Step:
    """A sum over two of several operands: which, and its equation. What it gives comes before all others."""

    places: tuple[int, int]
    equation: str


def steps(equation: str, shapes: Sequence[Shape]) -> Sequence[Step]:
    """How to do a sum over several operands of these shapes two at a time, from left to right (as torch does, without
    opt_einsum); none where no two that are left make a product of matrices. A sum over two is one step, whatever it is.
    """
    if len(shapes) == 2:
        return [Step((0, 1), equation)]
    read = _terms(equation, [len(shape) for shape in shapes])
    if read is None:
        return []
    left, taken = list(zip(read[0], shapes, strict=True)), list[Step]()
    while len(left) > 1:
        for places in combinations(range(len(left)), 2):
            (first, a), (second, b) = (left[place] for place in places)
            rest = [term for place, term in enumerate(left) if place not in places]
            sizes = dict(zip(first, a, strict=True)) | dict(zip(second, b, strict=True))
            needed = {*"".join(letters for letters, _ in rest), *read[1]}
            made = "".join(letter for letter in sizes if letter in needed) if rest else read[1]
            if as_product(pair := f"{first},{second}->{made}", a, b) is not None:
                break
        else:
            return []
        taken.append(Step(places, pair))
        left = [(made, tuple(sizes[letter] for letter in made)), *rest]
    return taken


def permuted(x: _X, dims: Dims, emit: Callable[..., _X]) -> _X:
    """``x`` with its dimensions in the order ``dims``: itself, where that is the order that they have."""
    return x if dims == tuple(range(len(dims))) else emit("permute", x, dims=dims)


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
    read = _terms(equation, (len(first), len(second)))
    if read is None:
        return None
    terms, returned = read
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


@dataclass(frozen=True, slots=True)
class Layer:
    """Permute the operand that is no weight by ``dims``, apply a linear layer to its last dimension, and permute the
    result by ``order``. The weight is (out, in), or the other way round if ``turned``.
    """

    dims: Dims
    order: Dims
    turned: bool


def as_layer(equation: str, ranks: Sequence[int], weight: int) -> Layer | None:
    """The layer that ``equation`` (``bchw,oc->bohw``) means with operand ``weight`` as its weight, or None."""
    read = _terms(equation, ranks)
    if read is None or ranks[weight] != 2:
        return None
    terms, returned = read
    x, matrix = terms[1 - weight], terms[weight]
    inner = [letter for letter in matrix if letter in x and letter not in returned]
    outer = [letter for letter in matrix if letter not in x and letter in returned]
    kept = [letter for letter in x if letter not in inner]
    if len(inner) != 1 or len(outer) != 1 or {*kept, *outer} != set(returned):
        return None
    made = [*kept, *outer]
    return Layer(
        tuple(x.index(letter) for letter in (*kept, *inner)), tuple(map(made.index, returned)), matrix[0] == inner[0]
    )


def _terms(equation: str, ranks: Sequence[int]) -> tuple[list[str], str] | None:
    """The letters of the dimensions of the operands and of what is returned, with letters of their own for those that
    ``...`` stands for, and where nothing is said of what is returned, that too; None for anything else, and diagonals.
    """
    given, arrow, returned = equation.replace(" ", "").partition("->")
    terms = given.split(",")
    if len(terms) != len(ranks):
        return None
    if not arrow:
        once = sorted(letter for letter in {*given} if letter.isalpha() and given.count(letter) == 1)
        returned = "".join(["..." if "..." in given else "", *once])
    hidden = [rank - len(term.replace("...", "")) for term, rank in zip(terms, ranks, strict=True)]
    if any(count < 0 or (count > 0 and "..." not in term) for term, count in zip(terms, hidden, strict=True)):
        return None
    most = max(hidden)
    if most > len(_HIDDEN):
        return None
    letters = [_HIDDEN[most - count : most] for count in hidden]
    terms = [term.replace("...", own) for term, own in zip(terms, letters, strict=True)]
    returned = returned.replace("...", _HIDDEN[:most])
    if not "".join(terms).isalpha() or any(len(set(term)) != len(term) for term in (*terms, returned)):
        return None
    return terms, returned


_HIDDEN: Final = "\u00e0\u00e1\u00e2\u00e3\u00e4\u00e5\u00e6\u00e7"
"""Letters that no equation has."""


def _merged(sizes: Sequence[Dim]) -> Dim | None:
    """Several dimensions as one; None for two that depend on the batch."""
    batches = [size for size in sizes if isinstance(size, Batch)]
    if len(batches) > 1:
        return None
    count = 1
    for size in sizes:
        count *= size.times if isinstance(size, Batch) else size
    return Batch(count) if batches else count
