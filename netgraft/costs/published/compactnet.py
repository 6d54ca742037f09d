"""CompactNet's latency tables of MobileNetV2 on a phone's CPU and on an NPU (2019, arXiv:1905.11669)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from netgraft.errors import DataError, OptionError

from .arrays import arrays

WHOLE: Final = (32, 16, 24, 24, 32, 32, 32, 64, 64, 64, 64, 96, 96, 96, 160, 160, 160, 320)
"""Filters of MobileNetV2's stem and of its 17 blocks."""


@dataclass(frozen=True)
class CompactNet:
    """Milliseconds by widths. ``layers[n]`` is the time of layer n by its filters and those of the layer before, each
    less one; a layer is a block's projection with the expansion and the depthwise convolution that follow it.
    """

    layers: tuple[npt.NDArray[np.float64], ...]

    @classmethod
    def load(cls, path: Path) -> CompactNet:
        """From a .npz file of the 18 matrices ``t00`` to ``t17``, as long as the simulator's text files print them.

        DataError says what does not fit.
        """
        found = arrays(path)
        before = (1, *WHOLE[:-1])
        for n, shape in enumerate(zip(WHOLE, before, strict=True)):
            have = found[f"t{n:02d}"].shape if f"t{n:02d}" in found else None
            if have != shape:
                raise DataError(f"{path}: t{n:02d} must have the shape {list(shape)}, it is {have or 'missing'}")
        return cls(tuple(found[f"t{n:02d}"].astype(np.float64) for n in range(len(WHOLE))))

    def latency(self, filters: Sequence[int] = WHOLE) -> float:
        """Milliseconds with these filters in the stem and the 17 blocks, none more than :data:`WHOLE` has."""
        fits = len(filters) == len(WHOLE) and all(1 <= f <= most for f, most in zip(filters, WHOLE, strict=True))
        if not fits:
            raise OptionError(f"filters {list(filters)} must be {len(WHOLE)} numbers, each from 1 to {list(WHOLE)}")
        before = (1, *filters[:-1])
        return float(sum(t[f - 1, b - 1] for t, f, b in zip(self.layers, filters, before, strict=True)))
