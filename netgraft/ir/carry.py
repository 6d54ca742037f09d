"""Carry: where each weight of a child comes from, as data, so that an edit can be stored, replayed and applied
anywhere.

``Keep | Slice | Repeat | Concat | Pad | Factor | Fresh`` nest freely: ``Pad(Slice(Keep("conv.weight"), 0, (0, 2)),
...)`` takes two filters and puts them into a larger kernel. :func:`resolve` turns one into a tensor and says how much
of it is inherited.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from math import prod, sqrt
from typing import Any

import numpy as np
import numpy.typing as npt

from netgraft.errors import GraphError

from .graph import Weights
from .types import DType, TensorType

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Keep:
    """The parent's tensor ``key``, as it is."""

    key: str


@dataclass(frozen=True, slots=True)
class Slice:
    """The entries ``indices`` of ``source`` along ``axis``, in that order."""

    source: Carry
    axis: int
    indices: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Repeat:
    """Like :class:`Slice`, for indices that occur several times; ``divide`` divides each entry by how often its index
    occurs, so that a consumer of repeated channels computes what it did (Net2Wider, Chen et al., ICLR 2016, section
    2.4).
    """

    source: Carry
    axis: int
    indices: tuple[int, ...]
    divide: bool = False


@dataclass(frozen=True, slots=True)
class Concat:
    """Several sources joined along ``axis``."""

    sources: tuple[Carry, ...]
    axis: int


@dataclass(frozen=True, slots=True)
class Pad:
    """``source`` with zeros around it: ``before`` and ``after`` entries per axis (a 3x3 kernel inside a 5x5 one)."""

    source: Carry
    before: tuple[int, ...]
    after: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Factor:
    """One of two kernels that, one after the other, come nearest to ``source``, a kernel [O, I, taps...] of one group:
    the best approximation in the mean square.

    The inputs are cut into ``blocks`` of I / blocks, and each has ``rank`` channels between the kernels. ``taps`` are
    the axes of windows that the first kernel has; the second has the others. ``second`` asks for the second kernel,
    [O, blocks rank, taps...]; the first is [blocks rank, I / blocks, taps...], in ``blocks`` groups. Their channels are
    of equal norms in both.
    """

    source: Carry
    rank: int
    blocks: int
    taps: tuple[int, ...]
    second: bool


@dataclass(frozen=True, slots=True)
class Fresh:
    """A new tensor.

    ``init``: ``default`` (He normal with fan-in for kernels and matrices, Xavier-like for a linear layer's, and what
    the role asks for otherwise), ``zeros``, ``ones`` or ``identity`` (a kernel or matrix that passes its input
    through). ``shape`` may be left out where the op table gives it.
    """

    init: str = "default"
    shape: tuple[int, ...] | None = None


Carry = Keep | Slice | Repeat | Concat | Pad | Factor | Fresh

_NUMPY = {DType.I64: np.int64, DType.I32: np.int32, DType.BOOL: np.bool_, DType.F64: np.float64}


def resolve(carry: Carry, weights: Weights, role: str, type: TensorType, rng: np.random.Generator) -> tuple[Array, int]:
    """The tensor that ``carry`` describes for a weight of ``role`` and ``type``, and how many of its elements come from
    ``weights``. Raises GraphError where the result does not have the type's shape.
    """
    shape = type.concrete()
    array, inherited = _resolve(carry, weights, role, shape, type.dtype, rng)
    if array.shape != shape:
        raise GraphError(f"{carry} gives a tensor of shape {array.shape}, the graph needs {type}")
    return np.array(array, order="C"), int(np.count_nonzero(inherited))


def _resolve(
    carry: Carry, weights: Weights, role: str, shape: tuple[int, ...], dtype: DType, rng: np.random.Generator
) -> tuple[Array, Array]:
    """The tensor, and a boolean mask of the same shape: True where it is inherited."""
    match carry:
        case Keep(key):
            if key not in weights:
                raise GraphError(f"the parent has no weight {key!r} to keep")
            array = np.asarray(weights[key])
            return array, np.ones(array.shape, bool)
        case Slice(source, axis, indices):
            array, mask = _resolve(source, weights, role, shape, dtype, rng)
            _check_indices(carry, array, axis, indices)
            return array.take(indices, axis), mask.take(indices, axis)
        case Repeat(source, axis, indices, divide):
            array, mask = _resolve(source, weights, role, shape, dtype, rng)
            _check_indices(carry, array, axis, indices)
            array = array.take(indices, axis)
            if divide:
                counts = Counter(indices)
                factor = np.array([1 / counts[i] for i in indices], array.dtype)
                array = array * factor.reshape([-1 if a == axis else 1 for a in range(array.ndim)])
            return array, mask.take(indices, axis)
        case Concat(sources, axis):
            parts = [_resolve(source, weights, role, shape, dtype, rng) for source in sources]
            return np.concatenate([a for a, _ in parts], axis), np.concatenate([m for _, m in parts], axis)
        case Pad(source, before, after):
            array, mask = _resolve(source, weights, role, shape, dtype, rng)
            widths = list(zip(before, after, strict=True))
            if len(widths) != array.ndim:
                raise GraphError(f"{carry} pads {len(widths)} axes of a tensor with {array.ndim}")
            return np.pad(array, widths), np.pad(mask, widths)
        case Factor(source):
            array, mask = _resolve(source, weights, role, shape, dtype, rng)
            array = _factor(carry, array)
            return array, np.full(array.shape, mask.any())
        case Fresh(init, own_shape):
            array = initial(init, role, own_shape or shape, dtype, rng)
            return array, np.zeros(array.shape, bool)


def _check_indices(carry: Carry, array: Array, axis: int, indices: tuple[int, ...]) -> None:
    if not 0 <= axis < array.ndim or (indices and not 0 <= min(indices) <= max(indices) < array.shape[axis]):
        raise GraphError(f"{carry} does not lie within a tensor of shape {array.shape}")


def _factor(carry: Factor, kernel: Array) -> Array:
    """See :class:`Factor`."""
    axes = range(2, kernel.ndim)
    outputs, inputs = kernel.shape[:2]
    if (
        kernel.ndim < 3
        or min(carry.rank, carry.blocks) < 1
        or inputs % carry.blocks
        or not set(carry.taps) <= set(axes)
    ):
        raise GraphError(f"{carry} does not fit a kernel of shape {kernel.shape}")
    first = [axis for axis in axes if axis in carry.taps]
    later = [axis for axis in axes if axis not in carry.taps]
    # Each block as a matrix: what the second kernel sees of it, by what the first does.
    blocks = kernel.reshape(outputs, carry.blocks, inputs // carry.blocks, *kernel.shape[2:])
    blocks = blocks.transpose(1, 0, *(axis + 1 for axis in later), 2, *(axis + 1 for axis in first))
    rows = outputs * prod(kernel.shape[axis] for axis in later)
    matrices = blocks.reshape(carry.blocks, rows, -1).astype(np.float64)
    if carry.rank > min(matrices.shape[1:]):
        raise GraphError(f"{carry}: matrices of {matrices.shape[1:]} have no rank of {carry.rank}")
    left, right = _nearest(matrices, carry.rank)
    kept = later if carry.second else first
    window = [kernel.shape[axis] if axis in kept else 1 for axis in axes]
    if not carry.second:
        shape = carry.blocks * carry.rank, inputs // carry.blocks
        return right.reshape(*shape, *window).astype(kernel.dtype)
    left = left.reshape(carry.blocks, outputs, -1, carry.rank).transpose(1, 0, 3, 2)
    return left.reshape(outputs, carry.blocks * carry.rank, *window).astype(kernel.dtype)


def _nearest(matrices: Array, rank: int) -> tuple[Array, Array]:
    """For each of some matrices two factors of a rank whose product is the nearest to it, of equal norms.

    By the eigenvectors of the smaller of its two Gram matrices, which is much faster than a singular value
    decomposition; the product is a projection, and as exact.
    """
    tall = matrices.shape[1] > matrices.shape[2]
    wide = matrices.transpose(0, 2, 1) if tall else matrices
    vectors = np.linalg.eigh(wide @ wide.transpose(0, 2, 1))[1][:, :, ::-1][:, :, :rank]
    # A vector is known but for its sign: its largest entry is made positive.
    largest = np.take_along_axis(vectors, np.abs(vectors).argmax(axis=1)[:, None], axis=1)
    vectors = np.where(largest < 0, -vectors, vectors)
    others = vectors.transpose(0, 2, 1) @ wide
    norms = np.sqrt(np.linalg.norm(others, axis=2, keepdims=True))
    norms[norms == 0] = 1.0
    one, other = vectors * norms.transpose(0, 2, 1), others / norms
    return (other.transpose(0, 2, 1), one.transpose(0, 2, 1)) if tall else (one, other)


def initial(init: str, role: str, shape: tuple[int, ...], dtype: DType, rng: np.random.Generator) -> Array:
    """A new tensor for a weight of ``role``: see :class:`Fresh`."""
    kind = _NUMPY.get(dtype, np.float32)
    if init == "identity":
        return _identity(shape).astype(kind)
    if init == "zeros" or role in ("bias", "running_mean", "num_batches_tracked", "value"):
        return np.zeros(shape, kind)
    if init == "ones" or role == "running_var" or len(shape) < 2:
        # One-dimensional "weight": the scale of a normalisation, or the slopes of a PReLU.
        return np.ones(shape, kind)
    if init != "default":
        raise GraphError(f"unknown initialisation {init!r}; known: default, zeros, ones, identity")
    gain = 2.0 if len(shape) > 2 else 1.0
    return (rng.standard_normal(shape) * sqrt(gain / prod(shape[1:]))).astype(kind)


def _identity(shape: tuple[int, ...]) -> Array:
    if len(shape) not in (2, 4) or shape[0] % shape[1]:
        raise GraphError(
            f"no identity of shape {shape}: output channels must be a multiple of input channels per group"
        )
    array = np.zeros(shape, np.float32)
    centre = tuple((k - 1) // 2 for k in shape[2:])
    for out in range(shape[0]):
        array[(out, out % shape[1], *centre)] = 1
    return array
