"""Networks to start from: plain ``torch.nn`` modules, written from their papers.

They are what ``zoo:NAME`` means on the command line, and what the built-in segment bank is mined from. Weights are
PyTorch's default initialisation, drawn from torch's global random state: seed it for the same network twice.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from netgraft.errors import SourceError, unknown
from netgraft.zoo.convnext import convnext_tiny
from netgraft.zoo.densenet import densenet40, densenet121
from netgraft.zoo.dncnn import dncnn
from netgraft.zoo.edsr import edsr
from netgraft.zoo.efficientnet import efficientnet_b0
from netgraft.zoo.fsrcnn import fsrcnn
from netgraft.zoo.googlenet import googlenet
from netgraft.zoo.hourglass import hourglass
from netgraft.zoo.imdn import imdn
from netgraft.zoo.inception import inception_v3
from netgraft.zoo.mobilenet import mobilenet_v1, mobilenet_v2, mobilenet_v3_large, mobilenet_v3_small
from netgraft.zoo.rcan import rcan
from netgraft.zoo.regnet import regnet_x_400mf, regnet_y_400mf
from netgraft.zoo.resnet import (
    resnet18,
    resnet20,
    resnet34,
    resnet50,
    resnet56,
    resnet101,
    resnet110,
    resnext50,
    wrn_50_2,
)
from netgraft.zoo.shufflenet import shufflenet_v2
from netgraft.zoo.squeezenet import squeezenet
from netgraft.zoo.unet import unet
from netgraft.zoo.vgg import vgg11, vgg13, vgg16, vgg19
from netgraft.zoo.vit import vit_tiny
from netgraft.zoo.wide_resnet import wrn_16_4, wrn_28_10

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
_PATCH = (3, 48, 48)

_RESNET = "He et al., CVPR 2016, arXiv:1512.03385"
_WIDE = "Zagoruyko and Komodakis, BMVC 2016, arXiv:1605.07146"
_VGG = "Simonyan and Zisserman, ICLR 2015, arXiv:1409.1556"
_DENSENET = "Huang et al., CVPR 2017, arXiv:1608.06993"
_REGNET = "Radosavovic et al., CVPR 2020, arXiv:2003.13678"
_MOBILENET_V3 = "Howard et al., ICCV 2019, arXiv:1905.02244"

_ENTRIES = {
    entry.name: entry
    for entry in (
        # Classifiers of small images.
        Entry("resnet20", resnet20, _CIFAR, _RESNET),
        Entry("resnet56", resnet56, _CIFAR, _RESNET),
        Entry("resnet110", resnet110, _CIFAR, _RESNET),
        Entry("wrn_16_4", wrn_16_4, _CIFAR, _WIDE),
        Entry("wrn_28_10", wrn_28_10, _CIFAR, _WIDE),
        Entry("vgg11", vgg11, _CIFAR, _VGG),
        Entry("vgg13", vgg13, _CIFAR, _VGG),
        Entry("vgg16", vgg16, _CIFAR, _VGG),
        Entry("vgg19", vgg19, _CIFAR, _VGG),
        Entry("densenet40", densenet40, _CIFAR, _DENSENET),
        Entry("vit_tiny", vit_tiny, _CIFAR, "Dosovitskiy et al., ICLR 2021, arXiv:2010.11929"),
        # Classifiers of large images.
        Entry("resnet18", resnet18, _IMAGENET, _RESNET),
        Entry("resnet34", resnet34, _IMAGENET, _RESNET),
        Entry("resnet50", resnet50, _IMAGENET, _RESNET),
        Entry("resnet101", resnet101, _IMAGENET, _RESNET),
        Entry("wrn_50_2", wrn_50_2, _IMAGENET, _WIDE),
        Entry("resnext50", resnext50, _IMAGENET, "Xie et al., CVPR 2017, arXiv:1611.05431"),
        Entry("regnet_x_400mf", regnet_x_400mf, _IMAGENET, _REGNET),
        Entry("regnet_y_400mf", regnet_y_400mf, _IMAGENET, _REGNET),
        Entry("convnext_tiny", convnext_tiny, _IMAGENET, "Liu et al., CVPR 2022, arXiv:2201.03545"),
        Entry("densenet121", densenet121, _IMAGENET, _DENSENET),
        Entry("googlenet", googlenet, _IMAGENET, "Szegedy et al., CVPR 2015, arXiv:1409.4842"),
        Entry("inception_v3", inception_v3, (3, 299, 299), "Szegedy et al., CVPR 2016, arXiv:1512.00567"),
        # Classifiers for small devices.
        Entry("squeezenet", squeezenet, _IMAGENET, "Iandola et al., 2016, arXiv:1602.07360"),
        Entry("mobilenet_v1", mobilenet_v1, _IMAGENET, "Howard et al., 2017, arXiv:1704.04861"),
        Entry("mobilenet_v2", mobilenet_v2, _IMAGENET, "Sandler et al., CVPR 2018, arXiv:1801.04381"),
        Entry("mobilenet_v3_small", mobilenet_v3_small, _IMAGENET, _MOBILENET_V3),
        Entry("mobilenet_v3_large", mobilenet_v3_large, _IMAGENET, _MOBILENET_V3),
        Entry("shufflenet_v2", shufflenet_v2, _IMAGENET, "Ma et al., ECCV 2018, arXiv:1807.11164"),
        Entry("efficientnet_b0", efficientnet_b0, _IMAGENET, "Tan and Le, ICML 2019, arXiv:1905.11946"),
        # Super-resolution and denoising.
        Entry("fsrcnn", fsrcnn, _PATCH, "Dong et al., ECCV 2016, arXiv:1608.00367"),
        Entry("edsr", edsr, _PATCH, "Lim et al., CVPRW 2017, arXiv:1707.02921"),
        Entry("rcan", rcan, _PATCH, "Zhang et al., ECCV 2018, arXiv:1807.02758"),
        Entry("imdn", imdn, _PATCH, "Hui et al., ACM MM 2019, arXiv:1909.11856"),
        Entry("dncnn", dncnn, _PATCH, "Zhang et al., IEEE TIP 2017, arXiv:1608.03981"),
        # A map of scores: segmentation, pose.
        Entry("unet", unet, (3, 128, 128), "Ronneberger et al., MICCAI 2015, arXiv:1505.04597"),
        Entry("hourglass", hourglass, (3, 256, 256), "Newell et al., ECCV 2016, arXiv:1603.06937"),
    )
}


def names() -> tuple[str, ...]:
    """Names of the networks, in the order of the zoo."""
    return tuple(_ENTRIES)


def entry(name: str) -> Entry:
    """The network called ``name``; raises SourceError, with the nearest name, where there is none."""
    if name not in _ENTRIES:
        raise SourceError(unknown("The zoo has no network", name, _ENTRIES))
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
