"""ProxylessNAS's table of a phone: milliseconds of the blocks of its space (Cai et al., ICLR 2019, section 3.3)."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from netgraft.errors import DataError, OptionError

STAGES: Final = ((24, 4, 2), (40, 4, 2), (80, 4, 2), (96, 4, 1), (192, 4, 2), (320, 1, 1))
"""Width, blocks and first stride of every stage that is searched."""
BLOCKS: Final = sum(count for _, count, _ in STAGES)

Block = tuple[int, int] | None
"""Expansion and kernel of a block; None for one that is left out."""


@dataclass(frozen=True)
class ProxylessNAS:
    """Milliseconds by the table's own keys, for images of 224 x 224."""

    means: Mapping[str, float]

    @classmethod
    def load(cls, path: Path) -> ProxylessNAS:
        """From the repository's ``mobile_trim.yaml``: ``KEY:`` and below it, indented, ``mean: NUMBER``.

        DataError names the line that does not fit.
        """
        means: dict[str, float] = {}
        key = None
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path} cannot be read: {error}") from None
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            inner = re.fullmatch(r"\s+(count|mean|var): ([-+.\deE]+)", line)
            if inner is None and (head := re.fullmatch(r"([\w:x.-]+):", line)):
                key = head[1]
            elif inner is not None and key is not None:
                if inner[1] == "mean":
                    means[key] = _milliseconds(inner[2], f"{path}, line {number}")
            else:
                raise DataError(f"{path}, line {number}: {line[:60]!r} is neither a block nor a number of one")
        if not means:
            raise DataError(f"{path} holds no block with a mean")
        return cls(means)

    def latency(self, blocks: Sequence[Block]) -> float:
        """Milliseconds of the network with these 21 blocks; OptionError for one that the table lacks."""
        if len(blocks) != BLOCKS:
            raise OptionError(f"the space has {BLOCKS} blocks, not {len(blocks)}")
        total = self._of("Conv-input:224x224x3-output:112x112x32")
        total += self._block(112, 32, 16, 1, (1, 3))
        size, width, at = 112, 16, iter(blocks)
        for wide, count, stride in STAGES:
            for place in range(count):
                step = stride if place == 0 else 1
                block = next(at)
                if block is None and place == 0:
                    raise OptionError("the first block of a stage cannot be left out")
                total += self._block(size, width, wide, step, block) if block else 0.0
                size, width = size // step, wide
        total += self._of("Conv_1-input:7x7x320-output:7x7x1280")
        return total + self._of("Logits-input:7x7x1280-output:1000")

    def _block(self, size: int, width: int, wide: int, stride: int, block: tuple[int, int]) -> float:
        expand, kernel = block
        out = size // stride
        skip = int(stride == 1 and width == wide)
        return self._of(
            f"expanded_conv-input:{size}x{size}x{width}-output:{out}x{out}x{wide}-expand:{expand}-kernel:{kernel}"
            f"-stride:{stride}-idskip:{skip}"
        )

    def _of(self, key: str) -> float:
        if key not in self.means:
            raise OptionError(f"the table has no {key}")
        return self.means[key]


def _milliseconds(text: str, where: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not 0 <= found < math.inf:
        raise DataError(f"{where}: {text!r} is no time in ms")
    return found
