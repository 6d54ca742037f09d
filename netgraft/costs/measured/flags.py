"""What the processor is, and what it says it can do."""

from __future__ import annotations

import platform
from functools import cache
from importlib.metadata import version
from pathlib import Path


@cache
def has_bf16() -> bool:
    """Whether the processor computes in bf16, by the flags that Linux shows; False where nothing is shown."""
    return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(_flags())


@cache
def has_avx512() -> bool:
    """Whether the processor has AVX-512, by the flags that Linux shows; False where nothing is shown."""
    return "avx512f" in _flags()


def machine() -> dict[str, str]:
    """What the times of onnxruntime's kernels depend on: the processor, the system and onnxruntime's version."""
    return {
        "processor": _processor(),
        "system": f"{platform.system()} {platform.machine()}",
        "onnxruntime": version("onnxruntime"),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def _flags() -> list[str]:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return []
    lines = [line for line in text.splitlines() if line.lower().startswith(("flags", "features"))]
    return lines[0].split() if lines else []
