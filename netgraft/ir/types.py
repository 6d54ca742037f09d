"""Shapes and element types. The batch size is symbolic, so that one graph serves every batch."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class DType(StrEnum):
    """Element types, named as in the textual form."""

    F64 = "f64"
    F32 = "f32"
    F16 = "f16"
    BF16 = "bf16"
    I64 = "i64"
    I32 = "i32"
    I16 = "i16"
    I8 = "i8"
    U8 = "u8"
    BOOL = "bool"
    C64 = "c64"
    C128 = "c128"

    # Enum's own is written in Python, and types are looked up all the time.
    __hash__ = str.__hash__

    @property
    def bytes(self) -> int:
        """Size of one element in bytes."""
        return _BYTES[self]


_BYTES = {
    DType.F64: 8,
    DType.F32: 4,
    DType.F16: 2,
    DType.BF16: 2,
    DType.I64: 8,
    DType.I32: 4,
    DType.I16: 2,
    DType.I8: 1,
    DType.U8: 1,
    DType.BOOL: 1,
    DType.C64: 8,
    DType.C128: 16,
}


@dataclass(frozen=True, slots=True, order=True)
class Batch:
    """A dimension that is ``times`` the batch size; printed ``N`` or ``49N`` (windows of a batch, say)."""

    times: int = 1

    def __str__(self) -> str:
        return "N" if self.times == 1 else f"{self.times}N"


Dim = int | Batch


@dataclass(frozen=True, slots=True)
class TensorType:
    """Shape and element type of a tensor; image tensors are laid out N, C, H, W."""

    shape: tuple[Dim, ...]
    dtype: DType = DType.F32

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.shape))}]"

    @property
    def rank(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    def concrete(self, batch: int = 1) -> tuple[int, ...]:
        """The shape with the batch size filled in."""
        return tuple(d.times * batch if isinstance(d, Batch) else d for d in self.shape)

    def numel(self, batch: int = 1) -> int:
        """Number of elements at the given batch size."""
        count = 1
        for d in self.shape:
            count *= d.times * batch if isinstance(d, Batch) else d
        return count

    def with_shape(self, shape: tuple[Dim, ...]) -> TensorType:
        """The same element type with another shape."""
        return TensorType(shape, self.dtype)


@dataclass(frozen=True, slots=True)
class Signature:
    """What goes into and comes out of a graph or a region, in order."""

    inputs: tuple[TensorType, ...]
    outputs: tuple[TensorType, ...]

    def __str__(self) -> str:
        return f"({', '.join(map(str, self.inputs))}) -> ({', '.join(map(str, self.outputs))})"
