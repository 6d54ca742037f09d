"""Arrays from files of others, which are data and nothing that is run."""

from __future__ import annotations

import lzma
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
import numpy.typing as npt

from netgraft.errors import DataError

LARGEST: Final = 1 << 28
"""Bytes that the arrays of a file may have in all when they are unpacked."""

_BROKEN: Final = (
    *(ValueError, KeyError, TypeError, AttributeError, OverflowError, EOFError, RuntimeError, MemoryError),
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError),
)
_HEADERS: Final = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


class _Refused(ValueError):
    """What can be read but is not taken, in words for the user."""


def read_array(path: Path, kind: str = "file of numpy arrays") -> npt.NDArray[Any]:
    """The array in a .npy file; DataError, which calls the file no ``kind``, for what is none."""
    with _reading(path, kind):
        if zipfile.is_zipfile(path):
            raise DataError(f"{path} holds several arrays, where one is needed: a .npy file")
        size = path.stat().st_size
        _bounded(size)
        with path.open("rb") as file:
            return _array(file, size)


def read_arrays(path: Path, kind: str = "file of numpy arrays") -> dict[str, npt.NDArray[Any]]:
    """The arrays in a .npz file by name; DataError, which calls the file no ``kind``, for what is none.

    Nothing is unpickled, and no more than :data:`LARGEST` bytes are unpacked.
    """
    with _reading(path, kind):
        if not zipfile.is_zipfile(path):
            read_array(path, kind)
            raise DataError(f"{path} holds one array, where several are needed: a .npz file")
        found = {}
        with zipfile.ZipFile(path) as file:
            _bounded(sum(member.file_size for member in file.infolist()))
            for member in file.infolist():
                with file.open(member) as stream:
                    found[member.filename.removesuffix(".npy")] = _array(stream, member.file_size)
        return found


@contextmanager
def _reading(path: Path, kind: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None
    except _Refused as error:
        raise DataError(f"{path} is no {kind}: {error}") from None
    except _BROKEN:
        raise DataError(f"{path} is no {kind}, or it is damaged or cut short") from None


def _bounded(size: int) -> None:
    if size > LARGEST:
        raise _Refused(f"it holds {size:,} bytes, and {LARGEST:,} are read at most")


def _array(stream: IO[bytes], size: int) -> npt.NDArray[Any]:
    """The array in a stream of so many bytes; before that is made room for, its shape must fit into them."""
    version = np.lib.format.read_magic(stream)
    if version not in _HEADERS:
        raise _Refused(f"arrays of format {version} are not read")
    shape, _, dtype = _HEADERS[version](stream)
    if dtype.hasobject:
        raise _Refused("it holds pickled objects, which are not read")
    if min(shape, default=0) < 0 or prod(shape) * max(1, dtype.itemsize) > size:
        raise _Refused(f"an array of shape {list(shape)} does not fit into its {size:,} bytes")
    stream.seek(0)
    found: npt.NDArray[Any] = np.lib.format.read_array(stream, allow_pickle=False)
    return found
