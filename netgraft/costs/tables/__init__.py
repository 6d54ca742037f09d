"""Latency tables: what kernels took on a device (:mod:`.table`), which kernels a graph becomes (:mod:`.kernels`)."""

from __future__ import annotations

from .table import SHIPPED, Entry, Estimate, Table, fitted

__all__ = ["SHIPPED", "Entry", "Estimate", "Table", "fitted"]
