"""A space of independent decisions: what the architectures of a benchmark table are drawn from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

Decisions = tuple[int, ...]
"""One option for each decision, by its place among them."""


@dataclass(frozen=True)
class Choices:
    """Decisions, each with its ``options``; ``write`` and ``read`` turn the chosen options into an arch and back."""

    options: tuple[tuple[str, ...], ...]
    write: Callable[[tuple[str, ...]], str]
    read: Callable[[str], tuple[str, ...]]

    @cached_property
    def sizes(self) -> npt.NDArray[np.int64]:
        """How many options each decision has."""
        return np.array([len(options) for options in self.options])

    def arch(self, decisions: Sequence[int]) -> str:
        """The arch of these decisions."""
        return self.write(tuple(options[i] for options, i in zip(self.options, decisions, strict=True)))

    def decisions(self, arch: str) -> Decisions:
        """The decisions of an arch; SourceError where it is none."""
        return tuple(options.index(name) for options, name in zip(self.options, self.read(arch), strict=True))

    def draw(self, rng: np.random.Generator) -> Decisions:
        """Independent uniform draws."""
        return tuple(rng.integers(self.sizes).tolist())

    def mutate(self, decisions: Decisions, rng: np.random.Generator) -> Decisions:
        """The same with another option for one random decision."""
        at = int(rng.integers(len(decisions)))
        other = int(rng.integers(self.sizes[at] - 1))
        return (*decisions[:at], other + (other >= decisions[at]), *decisions[at + 1 :])
