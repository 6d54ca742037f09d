"""What a family is to those who sample from it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from netgraft.ir import Graph


@dataclass(frozen=True)
class Family:
    """A family of networks.

    ``draw`` gives the configuration of a random member, as text; ``build`` makes the network of one (SourceError where
    the text describes none). ``key`` tells members apart: two configurations with the same key are one member. ``size``
    is how many members there are to be drawn, where that is few, and ``members`` lists all configurations, where that
    is possible.
    """

    name: str
    paper: str
    draw: Callable[[np.random.Generator], str]
    build: Callable[[str], Graph]
    key: Callable[[str], str] = str
    size: int | None = None
    members: Callable[[], Iterable[str]] | None = None
