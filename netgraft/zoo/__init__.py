"""Networks to start from: plain ``torch.nn`` modules, written from their papers.

They are what ``zoo:NAME`` means on the command line, and what the built-in segment bank is mined from. Weights are
PyTorch's default initialisation, drawn from torch's global random state: seed it for the same network twice.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from netgraft.errors import SourceError
from netgraft.zoo.densenet import densenet40
from netgraft.zoo.edsr import edsr
from netgraft.zoo.googlenet import googlenet
from netgraft.zoo.mobilenet import mobilenet_v2
from netgraft.zoo.resnet import resnet18, resnet20, resnet50, resnet56
from netgraft.zoo.shufflenet import shufflenet_v2
from netgraft.zoo.squeezenet import squeezenet
from netgraft.zoo.unet import unet
from netgraft.zoo.vgg import vgg11, vgg16
from netgraft.zoo.vit import vit_tiny

__all__ = ["Entry", "build", "entry", "names"]


@dataclass(frozen=True)
class Entry:
    """A network of the zoo: its builder, the shape (C, H, W) of the inputs it is made for, and its paper."""

    name: str
    build: Callable[..., nn.Module]
    input_shape: tuple[int, int, int]
    paper: str


_CIFAR = (3, 32, 32)
_IMAGENET = (3, 224, 224)

_ENTRIES = {
    entry.name: entry
    for entry in (
        Entry("resnet20", resnet20, _CIFAR, "He et al., CVPR 2016, arXiv:1512.03385"),
        Entry("resnet56", resnet56, _CIFAR, "He et al., CVPR 2016, arXiv:1512.03385"),
        Entry("resnet18", resnet18, _IMAGENET, "He et al., CVPR 2016, arXiv:1512.03385"),
        Entry("resnet50", resnet50, _IMAGENET, "He et al., CVPR 2016, arXiv:1512.03385"),
        Entry("vgg11", vgg11, _CIFAR, "Simonyan and Zisserman, ICLR 2015, arXiv:1409.1556"),
        Entry("vgg16", vgg16, _CIFAR, "Simonyan and Zisserman, ICLR 2015, arXiv:1409.1556"),
        Entry("mobilenet_v2", mobilenet_v2, _IMAGENET, "Sandler et al., CVPR 2018, arXiv:1801.04381"),
        Entry("densenet40", densenet40, _CIFAR, "Huang et al., CVPR 2017, arXiv:1608.06993"),
        Entry("googlenet", googlenet, _IMAGENET, "Szegedy et al., CVPR 2015, arXiv:1409.4842"),
        Entry("squeezenet", squeezenet, _IMAGENET, "Iandola et al., 2016, arXiv:1602.07360"),
        Entry("shufflenet_v2", shufflenet_v2, _IMAGENET, "Ma et al., ECCV 2018, arXiv:1807.11164"),
        Entry("edsr", edsr, (3, 48, 48), "Lim et al., CVPRW 2017, arXiv:1707.02921"),
        Entry("unet", unet, (3, 128, 128), "Ronneberger et al., MICCAI 2015, arXiv:1505.04597"),
        Entry("vit_tiny", vit_tiny, _CIFAR, "Dosovitskiy et al., ICLR 2021, arXiv:2010.11929"),
    )
}


def names() -> tuple[str, ...]:
    """Names of the networks, in the order of the zoo."""
    return tuple(_ENTRIES)


def entry(name: str) -> Entry:
    """The network called ``name``; raises SourceError, with the nearest name, where there is none."""
    if name not in _ENTRIES:
        near = difflib.get_close_matches(name, _ENTRIES, n=1)
        guess = f"; did you mean {near[0]!r}?" if near else "."
        raise SourceError(f"The zoo has no network {name!r}{guess} It has: {', '.join(_ENTRIES)}.")
    return _ENTRIES[name]


def build(name: str, **options: object) -> nn.Module:
    """Build the network called ``name``; ``options`` are the keyword arguments of its builder.

    Most take ``classes``, ``channels`` and ``width``. Raises SourceError for an unknown name or option.
    """
    builder = entry(name).build
    known = inspect.signature(builder).parameters
    unknown = [option for option in options if option not in known]
    if unknown:
        raise SourceError(f"Zoo network {name!r} has no option {unknown[0]!r}; it takes: {', '.join(known)}.")
    return builder(**options)
