"""The numbers in files of numpy arrays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from netgraft.costs.arrays import read_array, read_arrays
from netgraft.errors import DataError


def array(path: Path) -> npt.NDArray[Any]:
    """The numbers in a .npy file; DataError for what is none."""
    return _numbers(path, read_array(path))


def arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    """The numbers in a .npz file by name; DataError for what is none."""
    return {name: _numbers(path, found) for name, found in read_arrays(path).items()}


def _numbers(path: Path, found: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if found.dtype.kind not in "iuf" or not np.isfinite(found).all():
        raise DataError(f"{path} must hold finite numbers, not {found.dtype}")
    return found
