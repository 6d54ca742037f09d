"""Predictors as files: one safetensors file with the model card as JSON in its metadata."""

from __future__ import annotations

import json
import os
from functools import cache
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, Final

import numpy as np
import safetensors
import safetensors.numpy

from netgraft.errors import DataError

from .beyond import ARRAYS, Beyond
from .heads import LAYERS, Heads
from .paths import Encoder
from .predictor import FIGURES, Predictor
from .traits import STATES, TOTALS, TRAITS

_FORMAT: Final = "netgraft predictor 2"
_SHIPPED: Final = "shipped.predictor"


def save(predictor: Predictor, path: Path) -> None:
    """Writes a predictor so that the file is there whole or not at all; the same predictor gives the same bytes."""
    arrays = {name: np.array(array, order="C") for name, array in sorted(predictor.arrays().items())}
    # What its numbers mean: another version of netgraft may see other traits.
    seen = {"traits": list(TRAITS), "totals": list(TOTALS), "states": list(STATES)}
    metadata = {"format": _FORMAT, "card": json.dumps({"card": predictor.card, "seen": seen}, sort_keys=True)}
    metadata = {"netgraft": json.dumps(metadata, sort_keys=True)}  # several keys come in no fixed order
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(safetensors.numpy.save(arrays, metadata))
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise DataError(f"cannot write {path}: {error.strerror}") from None


def load(path: Path | str | None = None) -> Predictor:
    """The predictor of a file, or the one that netgraft ships; DataError, naming the file, where it is none."""
    if path is None:
        return _shipped()
    path = Path(path)
    try:
        with safetensors.safe_open(path, "numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a mapping
    except (OSError, safetensors.SafetensorError) as error:
        raise DataError(f"cannot read the predictor {path}: {error}") from None
    try:
        described = json.loads(metadata["netgraft"])
        if described["format"] != _FORMAT:
            raise DataError(
                f"{path} is of the format {described['format']!r}; this netgraft reads {_FORMAT!r}: train it anew"
            )
        said = json.loads(described["card"])
        card, seen = said["card"], said["seen"]
    except (LookupError, ValueError, TypeError):
        raise DataError(f"{path} is no predictor; 'netgraft predictor train' writes them") from None
    if seen != {"traits": list(TRAITS), "totals": list(TOTALS), "states": list(STATES)}:
        raise DataError(f"{path} sees nodes otherwise than this netgraft; train it anew from its labels")
    if not _is_card(card):
        raise DataError(f"{path}: the model card does not say of each group what it should: {', '.join(FIGURES)}")
    _check(path, arrays)
    encoder = Encoder(arrays.pop("encoder.node"), arrays.pop("encoder.turn"))
    beyond = Beyond(**{name: arrays.pop(f"beyond.{name}") for name in ARRAYS})
    return Predictor(encoder, Heads(**arrays), beyond, card)


def _is_card(card: Any) -> bool:
    groups = card.get("groups", {}) if isinstance(card, dict) else None
    return isinstance(groups, dict) and all(
        isinstance(figures, dict) and all(isinstance(figures.get(name), int | float) for name in FIGURES)
        for figures in groups.values()
    )


def _check(path: Path, arrays: dict[str, Any]) -> None:
    """DataError unless all arrays are there, in shapes that go together, and finite where they must be."""
    wanted = {"encoder.node", "encoder.turn", *(f"beyond.{name}" for name in ARRAYS), *LAYERS}
    if arrays.keys() != wanted:
        raise DataError(f"{path}: {min(arrays.keys() ^ wanted)!r} is missing or not expected")
    heads, width = arrays["second_bias"].shape if arrays["second_bias"].ndim == 2 else (0, 0)
    channels = arrays["encoder.node"].shape[0] if arrays["encoder.node"].ndim == 2 else 0
    features = channels + 1 + len(TOTALS)
    groups = max(1, len(arrays["beyond.groups"]) if arrays["beyond.groups"].ndim else 0)
    shapes = {
        "encoder.node": (channels, len(TRAITS)),
        "encoder.turn": (len(STATES), len(STATES), channels),
        "beyond.centre": (features,),
        "beyond.spread": (features,),
        "beyond.whiten": (features, features),
        "beyond.groups": (groups, features),
        "beyond.units": (groups,),
        "beyond.size": (3,),
        "beyond.variance": (1,),
        "centre": (features,),
        "spread": (features,),
        "first": (features, heads * width),
        "first_bias": (heads * width,),
        "second": (heads, width, width),
        "second_bias": (heads, width),
        "last": (heads, width),
        "last_bias": (heads,),
        "noise": (2,),
    }
    for name, shape in shapes.items():
        if arrays[name].shape != shape or not arrays[name].size:
            raise DataError(f"{path}: {name} has the shape {arrays[name].shape}, not {shape}")
        if arrays[name].dtype.kind != "f" or (name != "spread" and not np.isfinite(arrays[name]).all()):
            raise DataError(f"{path}: {name} holds what is no number")
    for name in ("noise", "spread", "beyond.spread", "beyond.units", "beyond.variance"):
        if not (arrays[name] > 0).all():
            raise DataError(f"{path}: {name} must be above 0 throughout")


@cache
def _shipped() -> Predictor:
    with as_file(files("netgraft.predictor") / _SHIPPED) as path:
        return load(path)
