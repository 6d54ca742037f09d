"""HW-NAS-Bench's own file, ``HW-NAS-Bench-v1_0.pickle`` (Li et al., ICLR 2021, arXiv:2103.10584), read as data.

For NAS-Bench-201's cells it lists what each architecture takes on six devices, for three data sets; for FBNet's space
it holds tables of blocks, whose entries a network's costs are the sums of: so any of its 9^22 archs can be asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from netgraft.convert.pickles import Record, array_of, read_pickle
from netgraft.errors import DataError, SourceError
from netgraft.spaces.families.fbnet import STAGES, layers_of

from .labels import plausible

Price = Callable[[str], float | None]
"""What an arch costs; None where it was not measured. SourceError for what is no arch of the space."""

_LARGEST: Final = 512 << 20  # bytes of a file: dozens of times what the published one takes
_KINDS: Final = {"latency": "latency", "energy": "energy", "arithmetic_intensity": "intensity"}
_PRODUCT: Final = "average_hw_metric"
# What the product of all does not take in.
_BESIDE: Final = "eyeriss_arithmetic_intensity"


def prices(path: Path, space: str, archs: Sequence[str]) -> dict[str, Price]:
    """The costs that the file knows in ``nats-tss`` or ``fbnet``, by metric.

    A metric is ``latency@DEVICE`` (ms), ``energy@DEVICE`` (mJ) or ``intensity@eyeriss`` (operations a byte), for
    CIFAR-10 (FBNet's space: CIFAR-100), and with ``/cifar100``, ``/imagenet16-120`` or ``/imagenet`` behind it for
    other data; ``average_hw_metric`` is the benchmark's own product of all but the last. ``archs`` are NAS-Bench-201's,
    by index. DataError says what is wrong with a file, or with the space.
    """
    held = _held(path)
    found: dict[str, Price] = {}
    try:
        if space == "nats-tss":
            number = {arch: index for index, arch in enumerate(archs)}
            for name, by_metric in held["nasbench201"].items():
                found |= _listed(path, by_metric, number, "" if name == "cifar10" else f"/{name.lower()}")
        elif space == "fbnet":
            for setting in _SETTINGS:
                found |= _summed(path, held["fbnet"], setting)
        else:
            raise DataError(f"{path} is HW-NAS-Bench's, which has nats-tss and fbnet, but no {space}")
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{path} is damaged, or not HW-NAS-Bench's ({type(error).__name__}: {error})") from None
    return found


def _held(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _LARGEST:
            raise DataError(f"{path} is not HW-NAS-Bench's: it is larger than {_LARGEST >> 20} MB")
        held = read_pickle(path.read_bytes(), ())
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    except SourceError as error:
        raise DataError(f"{path} {error}") from None
    if not isinstance(held, dict) or not {"nasbench201", "fbnet"} <= held.keys():
        raise DataError(f"{path} is not HW-NAS-Bench's: that holds nasbench201 and fbnet")
    return held


def _named(metric: str) -> str | None:
    """How a metric of the file is called here; None for what is none."""
    device, _, kind = metric.partition("_")
    return f"{_KINDS[kind]}@{device}" if kind in _KINDS else None


# --- NAS-Bench-201: a list for each device ---


def _listed(path: Path, by_metric: Mapping[str, Any], number: Mapping[str, int], data: str) -> dict[str, Price]:
    for index, config in enumerate(by_metric.get("config", ())):
        if number.get(config["arch_str"]) != index:
            raise DataError(f"{path} lists other architectures than this space has: {index} is {config['arch_str']}")
    found: dict[str, Price] = {}
    multiplied = np.ones(len(number))
    for metric, values in by_metric.items():
        if (name := _named(metric)) is None:
            continue
        column = np.asarray(array_of(values) if isinstance(values, Record) else values, dtype=np.float64)
        if column.shape != (len(number),):
            raise DataError(f"{path} has {column.shape} values of {metric}, where the space has {len(number)}")
        if metric != _BESIDE:
            multiplied = multiplied * column
        if name.startswith("latency"):
            column = np.where(plausible(column), column, np.nan)
        found[name + data] = partial(_looked_up, column, number)
    found[_PRODUCT + data] = partial(_looked_up, multiplied, number)
    return found


def _looked_up(column: np.ndarray[Any, Any], number: Mapping[str, int], arch: str) -> float | None:
    index = number.get(arch)
    return None if index is None or np.isnan(column[index]) else float(column[index])


# --- FBNet's space: sums of blocks ---


class _Setting(NamedTuple):
    """A network of the space for one data set, around its layers."""

    data: str
    size: int
    stem_stride: int
    strides: tuple[int, ...]
    head: int
    classes: int


_STEM: Final = 16
_SETTINGS: Final = (
    _Setting("", 32, 1, tuple(stride for *_, stride in STAGES), 1504, 100),
    _Setting("/imagenet", 224, 2, (1, 2, 2, 2, 1, 2, 1), 1984, 1000),
)


def _summed(path: Path, tables: Mapping[str, Mapping[str, Any]], setting: _Setting) -> dict[str, Price]:
    blocks = {name: table for metric, table in tables.items() if (name := _named(metric))}
    found: dict[str, Price] = {
        name + setting.data: partial(_sum, path, table, setting) for name, table in blocks.items()
    }

    def product(arch: str) -> float:
        return prod(_sum(path, table, setting, arch) for table in blocks.values())

    found[_PRODUCT + setting.data] = product
    return found


def _sum(path: Path, table: Mapping[str, Any], setting: _Setting, arch: str) -> float:
    try:
        return sum(float(table[part]) for part in parts(arch, setting))
    except KeyError as error:
        raise DataError(f"{path} has no entry {error}, which the network {arch!r} needs") from None


def parts(arch: str, setting: _Setting = _SETTINGS[0]) -> Iterator[str]:
    """What HW-NAS-Bench calls the parts of a network of FBNet's space, one after the other."""
    layers = iter(layers_of(arch))
    size, own = setting.size, _STEM
    yield f"ConvNorm_H{size}_W{size}_Cin3_Cout{own}_kernel3_stride{setting.stem_stride}_group1"
    size //= setting.stem_stride
    for (channels, depth, _), first in zip(STAGES, setting.strides, strict=True):
        for stride in (first, *[1] * (depth - 1)):
            place, layer = f"H{size}_W{size}_Cin{own}_Cout{channels}", next(layers)
            if layer == "skip":
                yield f"Skip_{place}_stride{stride}"
            else:
                kernel, expansion, *grouped = (int(part[1:]) for part in layer.split("_"))
                groups = grouped[0] if grouped else 1
                yield f"ConvBlock_{place}_exp{expansion}_kernel{kernel}_stride{stride}_group{groups}"
            size, own = size // stride, channels
    yield f"ConvNorm_H{size}_W{size}_Cin{own}_Cout{setting.head}_kernel1_stride1_group1"
    yield f"AvgP_H{size}_W{size}_Cin{setting.head}_Cout{setting.head}_kernel{size}_stride1"
    yield f"FC_Cin{setting.head}_Cout{setting.classes}"
