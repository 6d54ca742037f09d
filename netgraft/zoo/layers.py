"""The pieces that many networks of the zoo are made of."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F


def scaled(features: int, width: float) -> int:
    """Number of channels when a network is made ``width`` times as wide; at least one."""
    return max(1, round(features * width))


def by_eights(features: float) -> int:
    """The nearest multiple of eight that is not more than 10 % less, as in the code of the MobileNets' authors."""
    rounded = max(8, int(features + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * features else rounded


def named(**modules: nn.Module) -> nn.Sequential:
    """The modules one after the other, under these names in ``state_dict``."""
    return nn.Sequential(OrderedDict(modules))


def conv_bn(
    inputs: int,
    outputs: int,
    kernel: int,
    *,
    stride: int = 1,
    groups: int = 1,
    activation: type[nn.Module] | None = nn.ReLU,
    norm: Callable[[int], nn.Module] = nn.BatchNorm2d,
) -> nn.Sequential:
    """Convolution that keeps the image size (divided by ``stride``), batch norm, and the activation if there is one."""
    net = nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False), norm(outputs)
    )
    return net.append(activation()) if activation else net


class SqueezeExcitation(nn.Module):
    """Channels weighted by what a small perceptron makes of their means (Hu, Shen, Sun, CVPR 2018, figure 2)."""

    def __init__(
        self,
        features: int,
        squeezed: int,
        activation: type[nn.Module] = nn.ReLU,
        gate: type[nn.Module] = nn.Sigmoid,
    ) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(features, squeezed, 1)
        self.activation = activation()
        self.fc2 = nn.Conv2d(squeezed, features, 1)
        self.gate = gate()

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(self.fc2(self.activation(self.fc1(F.adaptive_avg_pool2d(x, 1)))))


def classifier(features: nn.Module, head: nn.Module) -> nn.Sequential:
    """A head that reads the mean of each channel of ``features``, by torchvision's names."""
    return named(features=features, avgpool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), classifier=head)
