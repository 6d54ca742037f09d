"""Arrays from files of others, which are data and nothing that is run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from netgraft.errors import DataError


def array(path: Path) -> npt.NDArray[Any]:
    """The numbers in a .npy file; DataError for what is none."""
    found = _loaded(path)
    if not isinstance(found, np.ndarray):
        raise DataError(f"{path} holds several arrays, where one is needed: a .npy file")
    return _numbers(path, found)


def arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    """The numbers in a .npz file by name; DataError for what is none."""
    found = _loaded(path)
    if isinstance(found, np.ndarray):
        raise DataError(f"{path} holds one array, where several are needed: a .npz file")
    try:
        return {name: _numbers(path, found[name]) for name in found.files}
    except ValueError as error:
        raise DataError(f"{path} cannot be read: {error}") from None


def _loaded(path: Path) -> Any:
    try:
        return np.load(path, allow_pickle=False)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None
    except (ValueError, EOFError) as error:
        raise DataError(f"{path} is no file of numpy arrays: {error}") from None


def _numbers(path: Path, found: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if found.dtype.kind not in "iuf" or not np.isfinite(found).all():
        raise DataError(f"{path} must hold finite numbers, not {found.dtype}")
    return found
