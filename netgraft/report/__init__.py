"""A run as one self-contained page, and the numbers on it: :func:`summarize` gives them, :func:`write` the page."""

from __future__ import annotations

from .page import write
from .summary import Quality, Row, Summary, lineage, summarize

__all__ = ["Quality", "Row", "Summary", "lineage", "summarize", "write"]
