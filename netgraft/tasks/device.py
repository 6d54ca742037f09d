"""Where networks are trained and judged: on the processor, or on a graphics card."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from math import inf

import torch
from torch import Tensor

from netgraft.errors import OptionError

CPU = torch.device("cpu")
FORMS = "auto, cpu, cuda, cuda:1 or mps"


def device_named(name: str | torch.device) -> torch.device:
    """``cpu``, ``cuda``, ``cuda:1``, ``mps`` (Apple's, only where it is asked for by name), or ``auto``: CUDA where it
    works, or else the CPU. OptionError, which says what there is, for a device that is not there or does not compute.
    """
    if isinstance(name, torch.device) and name.type not in ("cpu", "cuda", "mps"):
        return name  # whoever brought another kind of device knows it
    asked = str(name)
    if asked == "auto":
        return _automatic()
    if not re.fullmatch(r"cpu|cuda(:\d+)?|mps", asked):
        raise OptionError(f"there is no device {asked!r}; write {FORMS}")
    device = torch.device(asked)
    if asked == "cuda" and torch.cuda.is_available():
        device = torch.device("cuda", torch.cuda.current_device())
    missing = _missing(device)
    if missing:
        there = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        there += ["mps"] * torch.backends.mps.is_available()
        raise OptionError(f"the device {asked} cannot be used: {missing}. There is {', '.join(there)}")
    return device


def _automatic() -> torch.device:
    if not torch.cuda.is_available():
        return CPU
    device = torch.device("cuda", torch.cuda.current_device())
    missing = _missing(device)
    if missing:  # a card that is too old for this torch, say
        warnings.warn(
            f"networks are trained on the CPU, as {device} cannot be used: {missing}", UserWarning, stacklevel=3
        )
        return CPU
    return device


def _missing(device: torch.device) -> str:
    """Why a device cannot be used, if so."""
    if device.type == "cuda" and not torch.cuda.is_available():
        built = torch.version.cuda is not None or torch.version.hip is not None
        why = "was built with it: there is no card, or no driver for one" if built else "was built without it"
        return f"torch finds no CUDA here (torch {torch.__version__} {why})"
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        return f"torch finds {torch.cuda.device_count()} of CUDA, which are counted from 0"
    if device.type == "mps" and not torch.backends.mps.is_available():
        return "torch finds none of Apple's here"
    try:
        torch.ones(2, device=device).sum().item()
    except RuntimeError as error:
        return str(error).strip().splitlines()[0]
    return ""


def described(device: torch.device) -> str:
    """A device for people, with the name that its maker gave it: ``cuda:0 (NVIDIA H100 80GB HBM3)``."""
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)


def room(device: torch.device) -> float:
    """Bytes that data may take there for good: a quarter of the memory that is free on a graphics card, so that
    activations have the rest.
    """
    match device.type:
        case "cuda":
            return torch.cuda.mem_get_info(device)[0] / 4
        case "mps":
            return (torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory()) / 4
    return inf


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """``tensor`` on a device: itself where it is there. On its way to a graphics card nothing waits for what that still
    has to do; CUDA's own copies run beside its computations, which takes memory that stays in place.
    """
    if tensor.device == device:
        return tensor
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    # Apple's may read memory that was given back meanwhile; and what comes from a card has to be there.
    return tensor.to(device, non_blocking=device.type not in ("cpu", "mps"))


def with_doubles(device: torch.device) -> torch.device:
    """The device itself, or the CPU in place of Apple's, which has no float64."""
    return CPU if device.type == "mps" else device


@contextmanager
def computing(device: torch.device) -> Iterator[None]:
    """What is computed inside on CUDA is float32 where it says so, not TF32; and convolutions take algorithms that give
    the same results again.
    """
    if device.type != "cuda":
        yield
        return
    products = torch.get_float32_matmul_precision()  # what a user's file has set, perhaps
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
            yield
    finally:
        torch.set_float32_matmul_precision(products)


@contextmanager
def random_from(seed: int, device: torch.device) -> Iterator[None]:
    """Torch's random state inside, on the CPU and on a device, follows from ``seed``; afterwards it is the caller's."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
