"""Chains of operations, as Two-Path and Inception draw them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def draw_chain(rng: np.random.Generator, main: Sequence[str], supporting: Sequence[str], count: int) -> tuple[str, ...]:
    """``count`` operations in any order: at least one of ``main``, at most one of ``supporting``."""
    share = len(supporting) / (len(main) + len(supporting))
    chain = [str(rng.choice(main))]
    for _ in range(count - 1):
        supports = rng.random() < share and not any(op in supporting for op in chain)
        chain.append(str(rng.choice(supporting if supports else main)))
    rng.shuffle(chain)
    return tuple(chain)
