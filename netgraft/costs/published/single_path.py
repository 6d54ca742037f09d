"""Single-Path NAS's table of a Pixel 1 (Stamoulis et al., ECML-PKDD 2019, section 3.3)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from netgraft.errors import DataError, OptionError

FIXED: Final = 19.5999
"""Milliseconds of what is not searched."""
SEARCHED: Final = range(1, 21)
"""The blocks that are; the file holds one more before and behind them."""
OPTIONS: Final = {(3, 3): "0", (3, 6): "1", (5, 3): "2", (5, 6): "3"}
"""The file's name for a kernel and an expansion."""


@dataclass(frozen=True)
class SinglePath:
    """Milliseconds by block, and by kernel and expansion."""

    times: Mapping[int, Mapping[tuple[int, int], float]]

    @classmethod
    def load(cls, path: Path) -> SinglePath:
        """From the repository's ``pixel1_runtime_model.json``; DataError where it is not like that."""
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            times = {n: {what: float(data[str(n)][key]) for what, key in OPTIONS.items()} for n in SEARCHED}
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror}") from None
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise DataError(f"{path} must hold the options 0 to 3 of the blocks 1 to 20: {error!r}") from None
        return cls(times)

    def latency(self, blocks: Sequence[tuple[int, int] | None]) -> float:
        """Milliseconds of the network whose 20 blocks have these kernels and expansions; None leaves a block out.

        The first block of each of the five stages cannot be left out.
        """
        if len(blocks) != len(SEARCHED) or any(block is not None and block not in OPTIONS for block in blocks):
            raise OptionError(f"blocks must be {len(SEARCHED)} of {', '.join(map(str, OPTIONS))} or None")
        if any(block is None for block in blocks[::4]):
            raise OptionError("the first block of a stage cannot be left out")
        return FIXED + sum(self.times[n][b] for n, b in zip(SEARCHED, blocks, strict=True) if b is not None)
