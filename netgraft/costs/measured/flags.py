"""What the processor says it can do."""

from __future__ import annotations

from functools import cache
from pathlib import Path


@cache
def has_bf16() -> bool:
    """Whether the processor computes in bf16, by the flags that Linux shows; False where nothing is shown."""
    return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(_flags())


@cache
def has_avx512() -> bool:
    """Whether the processor has AVX-512, by the flags that Linux shows; False where nothing is shown."""
    return "avx512f" in _flags()


def _flags() -> list[str]:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return []
    lines = [line for line in text.splitlines() if line.lower().startswith(("flags", "features"))]
    return lines[0].split() if lines else []
