"""Segments: frequent pieces of networks. Read :mod:`bpe` (how graphs are cut) before :mod:`bank` (what is kept)."""

from __future__ import annotations

from .bank import Bank, Segment, default, head, mine
from .bpe import Vocabulary

__all__ = ["Bank", "Segment", "Vocabulary", "default", "head", "mine"]
