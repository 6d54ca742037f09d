"""A run as one self-contained page, and the numbers on it: :func:`summarize` gives them, :func:`write` the page."""

from __future__ import annotations

from .kinds import Kind, kinds
from .page import write
from .summary import Row, Scale, Standing, Summary, lineage, standings, summarize

__all__ = ["Kind", "Row", "Scale", "Standing", "Summary", "kinds", "lineage", "standings", "summarize", "write"]
