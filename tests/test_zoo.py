"""The zoo: every network has its paper's size, runs, learns with all of its parts and scales in width."""

from __future__ import annotations

import inspect
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from netgraft import zoo
from netgraft.errors import SourceError


def parameters(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def small_input(name: str, batch: int = 2) -> torch.Tensor:
    """A batch of images that are cheap to run and large enough for the network."""
    channels, height, width = zoo.entry(name).input_shape
    return torch.randn(batch, channels, min(height, 64), min(width, 64))


def test_zoo_holds_the_promised_kinds() -> None:
    assert {
        "resnet20",
        "resnet56",
        "resnet18",
        "resnet50",
        "vgg11",
        "vgg16",
        "mobilenet_v2",
        "densenet40",
        "googlenet",
        "squeezenet",
        "shufflenet_v2",
        "edsr",
        "unet",
    } <= set(zoo.names())


# Published sizes. Where a paper gives only two or three digits, the figure is the one of its usual implementation
# (torchvision, the authors' code), which is the same network.
@pytest.mark.parametrize(
    ("name", "options", "published"),
    [
        ("resnet20", {}, 272_474),  # 0.27 M (table 6); with projection shortcuts
        ("resnet56", {}, 855_770),  # 0.85 M
        ("resnet18", {"classes": 1000}, 11_689_512),
        ("resnet50", {"classes": 1000}, 25_557_032),
        ("mobilenet_v2", {"classes": 1000}, 3_504_872),  # 3.4 M (table 4) rounds differently
        ("densenet40", {}, 176_122),
        ("squeezenet", {"classes": 1000}, 1_248_424),
        ("shufflenet_v2", {"classes": 1000}, 2_278_604),
        ("edsr", {}, 1_369_859),  # 1.37 M
        ("unet", {"classes": 1}, 31_037_633),
        ("vit_tiny", {"classes": 1000, "image": 224, "patch": 16}, 5_717_416),
    ],
)
def test_parameters_are_the_published_ones(name: str, options: dict[str, int], published: int) -> None:
    assert parameters(zoo.build(name, **options)) == published


def test_vgg_convolutions_have_the_published_size() -> None:
    """The convolutions of configuration D hold 14.71 M of the paper's 138 M parameters; the rest is the head."""
    net = zoo.build("vgg16")
    assert sum(m.weight.numel() for m in net.modules() if isinstance(m, nn.Conv2d)) == 14_710_464


def test_googlenet_has_the_published_size() -> None:
    """Caffe's GoogLeNet without the auxiliary classifiers has a bias where this one has batch norm's two vectors."""
    net = zoo.build("googlenet", classes=1000)
    channels = sum(m.num_features for m in net.modules() if isinstance(m, nn.BatchNorm2d))
    assert parameters(net) - channels == 6_998_552


# Multiply-adds in millions: they show what sizes cannot, that images shrink where the paper says.
@pytest.mark.parametrize(
    ("name", "options", "published"),
    [
        ("resnet20", {}, 40.8),
        ("resnet56", {}, 125.7),
        ("resnet18", {"classes": 1000}, 1814),
        ("resnet50", {"classes": 1000}, 4089),
        ("vgg16", {}, 313),
        ("mobilenet_v2", {"classes": 1000}, 300),
        ("shufflenet_v2", {"classes": 1000}, 146),
        ("squeezenet", {"classes": 1000}, 819),
        ("googlenet", {"classes": 1000}, 1582),
    ],
)
def test_multiply_adds_are_the_published_ones(name: str, options: dict[str, int], published: float) -> None:
    net = zoo.build(name, **options).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net(torch.randn(1, *zoo.entry(name).input_shape))
    assert counter.get_total_flops() / 2e6 == pytest.approx(published, rel=0.01)


@pytest.mark.parametrize("name", zoo.names())
def test_network_runs_on_the_input_it_is_made_for(name: str) -> None:
    entry = zoo.entry(name)
    net = zoo.build(name).eval()
    x = torch.randn(1, *entry.input_shape)
    with torch.no_grad():
        y = net(x)
    _, height, width = entry.input_shape
    expected = {"edsr": (1, 3, 2 * height, 2 * width), "unet": (1, 10, height, width)}.get(name, (1, 10))
    assert tuple(y.shape) == expected
    assert torch.isfinite(y).all()


@pytest.mark.parametrize("name", zoo.names())
def test_every_part_learns_at_any_width_and_depends_on_the_input(name: str) -> None:
    full, net = zoo.build(name), zoo.build(name, width=0.3, channels=3).train()
    assert parameters(net) < parameters(full) / 2
    y = net(small_input(name))
    assert (y[0] - y[1]).abs().max() > 0
    y.square().mean().backward()
    assert [key for key, p in net.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("name", zoo.names())
def test_channels_and_classes_are_options(name: str) -> None:
    options = {"channels": 1} if name == "edsr" else {"channels": 1, "classes": 7}
    net = zoo.build(name, width=0.25, **options).eval()
    with torch.no_grad():
        y = net(small_input(name)[:, :1])
    assert y.shape[1] == (1 if name == "edsr" else 7)


def test_resnet20_takes_the_digits() -> None:
    net = zoo.build("resnet20", channels=1).eval()
    assert tuple(net(torch.randn(5, 1, 8, 8)).shape) == (5, 10)


def test_resnet_width_is_continuous() -> None:
    """The comparison with plain width scaling needs networks between the round widths."""
    sizes = [parameters(zoo.build("resnet20", width=w / 16)) for w in range(4, 25)]
    assert all(a < b for a, b in pairwise(sizes))


def test_seed_decides_the_weights() -> None:
    torch.manual_seed(3)
    first = zoo.build("resnet20").state_dict()
    torch.manual_seed(3)
    again = zoo.build("resnet20").state_dict()
    assert all(torch.equal(first[key], again[key]) for key in first)


@pytest.mark.parametrize("name", zoo.names())
def test_options_are_keywords_with_defaults(name: str) -> None:
    options = inspect.signature(zoo.entry(name).build).parameters.values()
    assert {"channels", "width"} <= {option.name for option in options}
    assert all(option.kind is option.KEYWORD_ONLY and option.default is not option.empty for option in options)


def test_unknown_name_lists_the_zoo_and_guesses() -> None:
    with pytest.raises(SourceError, match=r"'resnet21'; did you mean 'resnet20'\?") as failure:
        zoo.build("resnet21")
    assert all(name in str(failure.value) for name in zoo.names())
    with pytest.raises(SourceError, match=r"no network 'qqq'\. It has: resnet20"):
        zoo.entry("qqq")


def test_unknown_option_lists_the_options() -> None:
    with pytest.raises(SourceError, match=r"'edsr' has no option 'classes'; it takes: channels, width, blocks, scale"):
        zoo.build("edsr", classes=10)
