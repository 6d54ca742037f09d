"""Segments: frequent pieces of networks. Read :mod:`bpe` (how graphs are cut), :mod:`bank` (what is kept, and how it is
found), :mod:`mine` (how a bank is made) and :mod:`file` (how it is kept), in this order.
"""

from __future__ import annotations

from .bank import Bank, Segment
from .bpe import EncodedGraph, Line, Vocabulary
from .file import default, load, save
from .mine import Quarry, head, merge, mine

__all__ = [
    "Bank",
    "EncodedGraph",
    "Line",
    "Quarry",
    "Segment",
    "Vocabulary",
    "default",
    "head",
    "load",
    "merge",
    "mine",
    "save",
]
