"""The zoo: every network has its paper's size, runs, learns with all of its parts and scales in width."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from contracts import outputs, sane_model
from masking import CLOSE, off, some_units
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from netgraft import zoo
from netgraft.convert.from_torch import from_module
from netgraft.convert.onnx import to_onnx, verify
from netgraft.costs.analytic import flops, unknown
from netgraft.errors import SourceError
from netgraft.zoo.convnext import ConvNeXtBlock, LayerNorm2d
from netgraft.zoo.efficientnet import MBConv
from netgraft.zoo.hourglass import Hourglass, Residual
from netgraft.zoo.inception import Branches, Mixed
from netgraft.zoo.layers import named
from netgraft.zoo.mobilenet import SqueezedResidual
from netgraft.zoo.regnet import XBlock
from netgraft.zoo.resnet import Bottleneck
from netgraft.zoo.wide_resnet import WideBlock


def parameters(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def sketch(name: str, **options: object) -> nn.Module:
    """The network without memory for its weights: what it computes has shapes and no values."""
    with torch.device("meta"):
        return zoo.build(name, **options).eval()


def image(name: str, most: int = 10**9, batch: int = 1) -> torch.Size:
    """The shape of a batch of images that the network is made for, of at most ``most`` by ``most`` pixels."""
    channels, height, width = zoo.entry(name).input_shape
    return torch.Size((batch, channels, min(height, most), min(width, most)))


SMALL = dict.fromkeys(zoo.names(), 64) | {"inception_v3": 75}
"""Image sizes that are cheap to run and large enough for the network."""

NO_CLASSES = {name for name in zoo.names() if "classes" not in inspect.signature(zoo.entry(name).build).parameters}


def test_zoo_holds_the_promised_kinds() -> None:
    small = {"resnet20", "resnet56", "resnet110", "wrn_16_4", "wrn_28_10", "vgg11", "vgg16", "densenet40", "vit_tiny"}
    large = {"resnet18", "resnet34", "resnet50", "resnet101", "wrn_50_2", "resnext50", "densenet121", "convnext_tiny"}
    large |= {"regnet_x_400mf", "regnet_y_400mf", "googlenet", "inception_v3"}
    mobile = {"squeezenet", "mobilenet_v1", "mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large"}
    mobile |= {"shufflenet_v2", "efficientnet_b0"}
    images = {"edsr", "fsrcnn", "imdn", "rcan", "dncnn", "unet", "hourglass"}
    assert small | large | mobile | images <= set(zoo.names())
    assert {"fsrcnn", "edsr", "rcan", "imdn", "dncnn"} == NO_CLASSES


# Published sizes. Where a paper gives only two or three digits, the figure is the one of its usual implementation
# (torchvision's documentation, the authors' code), which is the same network.
@pytest.mark.parametrize(
    ("name", "options", "published"),
    [
        ("resnet20", {}, 272_474),  # 0.27 M (table 6); with projection shortcuts
        ("resnet56", {}, 855_770),  # 0.85 M
        ("resnet110", {}, 1_730_714),  # 1.7 M
        ("wrn_16_4", {}, 2_748_890),  # 2.7 M (table 5)
        ("wrn_28_10", {}, 36_479_194),  # 36.5 M (table 5)
        ("resnet18", {"classes": 1000}, 11_689_512),
        ("resnet34", {"classes": 1000}, 21_797_672),
        ("resnet50", {"classes": 1000}, 25_557_032),
        ("resnet101", {"classes": 1000}, 44_549_160),
        ("wrn_50_2", {"classes": 1000}, 68_883_240),
        ("resnext50", {"classes": 1000}, 25_028_904),
        ("regnet_x_400mf", {"classes": 1000}, 5_495_976),  # 5.2 M (table 3), whose last stage has 384 channels
        ("regnet_y_400mf", {"classes": 1000}, 4_344_144),  # 4.3 M (table 4)
        ("convnext_tiny", {"classes": 1000}, 28_589_128),
        ("densenet40", {}, 176_122),
        ("densenet121", {"classes": 1000}, 7_978_856),
        ("inception_v3", {"classes": 1000}, 23_834_568),  # Keras's 23,851,784 counts statistics, and no scales
        ("squeezenet", {"classes": 1000}, 1_248_424),
        ("mobilenet_v1", {"classes": 1000}, 4_231_976),  # 4.2 M (table 8); Keras has 4,253,864 with 21,888 statistics
        ("mobilenet_v2", {"classes": 1000}, 3_504_872),  # 3.4 M (table 4) rounds differently
        ("mobilenet_v3_small", {"classes": 1000}, 2_542_856),  # 2.5 M (table 4)
        ("mobilenet_v3_large", {"classes": 1000}, 5_483_032),  # 5.4 M (table 3)
        ("shufflenet_v2", {"classes": 1000}, 2_278_604),
        ("efficientnet_b0", {"classes": 1000}, 5_288_548),
        ("edsr", {}, 1_369_859),  # 1.37 M
        # The authors' code has 15,592,379 and 15,444,667, of which 24 add and take away the mean colour.
        ("rcan", {"groups": 10, "blocks": 20, "scale": 4}, 15_592_355),
        ("rcan", {"groups": 10, "blocks": 20, "scale": 2}, 15_444_643),
        ("imdn", {"scale": 2}, 694_404),  # 694 K, 703 K and 715 K (table 5)
        ("imdn", {"scale": 3}, 703_059),
        ("imdn", {"scale": 4}, 715_176),
        ("dncnn", {"channels": 1}, 556_096),  # of the authors' code
        ("unet", {"classes": 1}, 31_037_633),
        ("vit_tiny", {"classes": 1000, "image": 224, "patch": 16}, 5_717_416),
    ],
)
def test_parameters_are_the_published_ones(name: str, options: dict[str, int], published: int) -> None:
    assert parameters(sketch(name, **options)) == published


@pytest.mark.parametrize(
    ("name", "published"),
    [("vgg11", 132_863_336), ("vgg13", 133_047_848), ("vgg16", 138_357_544), ("vgg19", 143_667_240)],
)
def test_vgg_convolutions_have_the_published_size(name: str, published: int) -> None:
    """With a bias in place of batch norm, and the three linear layers on maps of 7x7 (table 2: 133 to 144 M)."""
    convs = [m for m in sketch(name).modules() if isinstance(m, nn.Conv2d)]
    linear = sum((inputs + 1) * outputs for inputs, outputs in ((512 * 7 * 7, 4096), (4096, 4096), (4096, 1000)))
    assert sum(m.weight.numel() + m.out_channels for m in convs) + linear == published


def test_googlenet_has_the_published_size() -> None:
    """Caffe's GoogLeNet without the auxiliary classifiers has a bias where this one has batch norm's two vectors."""
    net = sketch("googlenet", classes=1000)
    channels = sum(m.num_features for m in net.modules() if isinstance(m, nn.BatchNorm2d))
    assert parameters(net) - channels == 6_998_552


def test_fsrcnn_has_the_published_size() -> None:
    """The 12,464 of the paper's table 1 are the weights of the convolutions."""
    net = sketch("fsrcnn", channels=1)
    convs = [m for m in net.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    assert sum(m.weight.numel() for m in convs) == 12_464


def test_hourglass_has_the_published_size() -> None:
    """Eight stacks have 25.59 M parameters in bearpaw/pytorch-pose, whose stem is wider than the authors' in one place.

    It has residual modules from 128 to 256 and 256 to 256 channels, the authors' code 128 to 128 and 128 to 256.
    """
    net = sketch("hourglass", classes=16, stacks=8)
    with torch.device("meta"):
        wider = parameters(Residual(256, 256)) - parameters(Residual(128, 128))
    assert (parameters(net) + wider) / 1e6 == pytest.approx(25.59, abs=0.005)


# Multiply-adds in millions: they show what sizes cannot, that images shrink where the paper says.
@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("resnet20", 40.8),
        ("resnet56", 125.7),
        ("wrn_28_10", 5243),  # 5.2 G
        ("vgg16", 313),
        ("resnet18", 1814),
        ("resnet34", 3664),
        ("resnet50", 4089),
        ("resnext50", 4230),
        ("regnet_x_400mf", 414),
        ("regnet_y_400mf", 402),
        ("convnext_tiny", 4456),
        ("densenet121", 2834),
        ("googlenet", 1582),
        ("inception_v3", 5713),
        ("squeezenet", 819),
        ("mobilenet_v1", 569),  # table 8
        ("mobilenet_v2", 300),
        ("mobilenet_v3_small", 56.5),
        ("mobilenet_v3_large", 217),
        ("shufflenet_v2", 146),
        ("efficientnet_b0", 386),
    ],
)
def test_multiply_adds_are_the_published_ones(name: str, published: float) -> None:
    large = image(name)[-1] > 200
    net = sketch(name, classes=1000 if large else 10)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net(torch.empty(image(name), device="meta"))
    assert counter.get_total_flops() / 2e6 == pytest.approx(published, rel=0.01)


def test_fsrcnn_computes_as_much_as_published() -> None:
    """For each pixel of the input (equation 5), when the deconvolution writes nine at a time."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        sketch("fsrcnn", channels=1, scale=3)(torch.empty(1, 1, 8, 8, device="meta"))
    assert counter.get_total_flops() == 2 * 64 * 12_464


@pytest.mark.parametrize("name", zoo.names())
def test_network_takes_the_input_it_is_made_for(name: str) -> None:
    y = sketch(name)(torch.empty(image(name), device="meta"))
    _, _, height, width = image(name)
    expected = dict.fromkeys(["fsrcnn", "edsr", "rcan", "imdn"], (1, 3, 2 * height, 2 * width)) | {
        "dncnn": (1, 3, height, width),
        "unet": (1, 10, height, width),
        "hourglass": (1, 10, height // 4, width // 4),
    }
    assert tuple(y.shape) == expected.get(name, (1, 10))


@pytest.mark.parametrize("name", zoo.names())
def test_every_part_learns_at_any_width_and_depends_on_the_input(name: str) -> None:
    options = {"channels": 1} if name in NO_CLASSES else {"channels": 1, "classes": 7}
    net = zoo.build(name, width=0.3, **options).train()
    assert parameters(net) < parameters(sketch(name)) / 2
    y = net(torch.randn(image(name, SMALL[name], batch=2))[:, :1])
    assert y.shape[1] == (1 if name in NO_CLASSES else 7)
    assert (y[0] - y[1]).abs().max() > 0
    y.square().mean().backward()
    assert [key for key, p in net.named_parameters() if p.grad is None] == []
    assert torch.isfinite(y).all()


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("resnet18", ["conv1.weight", "bn1.running_mean", "layer2.0.downsample.1.weight", "layer4.1.bn2.bias"]),
        ("resnext50", ["layer1.0.conv3.weight", "layer4.2.bn3.num_batches_tracked", "fc.bias"]),
        ("densenet121", ["features.conv0.weight", "features.denseblock4.denselayer16.conv2.weight"]),
        ("densenet121", ["features.transition3.norm.bias", "features.norm5.weight", "classifier.weight"]),
        ("inception_v3", ["Conv2d_4a_3x3.bn.weight", "Mixed_5d.branch3x3dbl_3.conv.weight", "fc.weight"]),
        ("inception_v3", ["Mixed_6a.branch3x3.bn.bias", "Mixed_7c.branch3x3dbl_3b.conv.weight"]),
        ("mobilenet_v2", ["features.1.conv.1.weight", "features.17.conv.2.weight", "features.17.conv.3.bias"]),
        ("mobilenet_v3_small", ["features.1.block.1.fc1.weight", "features.12.0.weight", "classifier.3.bias"]),
        ("efficientnet_b0", ["features.1.0.block.1.fc2.bias", "features.7.0.block.3.1.weight", "classifier.1.weight"]),
        ("regnet_y_400mf", ["stem.0.weight", "trunk_output.block4.block4-5.f.se.fc1.bias", "fc.weight"]),
        ("regnet_x_400mf", ["trunk_output.block1.block1-0.proj.1.weight", "trunk_output.block2.block2-1.f.c.0.weight"]),
        ("convnext_tiny", ["features.0.1.weight", "features.7.2.layer_scale", "features.7.2.block.5.bias"]),
        ("convnext_tiny", ["features.6.1.weight", "classifier.0.weight", "classifier.2.weight"]),
        ("squeezenet", ["features.0.weight", "features.12.expand3x3.bias", "classifier.1.weight"]),
        ("shufflenet_v2", ["conv1.0.weight", "stage4.0.branch1.3.weight", "stage4.3.branch2.6.bias", "conv5.1.weight"]),
    ],
)
def test_parameters_have_torchvisions_names(name: str, keys: list[str]) -> None:
    """So that its weights can be loaded."""
    assert set(keys) <= sketch(name).state_dict().keys()


# One of each kind of block, and the small networks whole: reading takes as long as the network is deep.
FORKED: Branches = {"branch1x1": [((4, 1, 1),)], "branch3x3": [((6, 1, 7),), ((2, 1, 3), (3, 3, 1))], "branch_pool": []}
REDUCED: Branches = {"branch3x3": [((4, 1, 1),), ((5, 3, 3),)], "branch7x7": [((4, 3, 3),)], "branch_pool": []}
READ: dict[str, Callable[[], nn.Module]] = {
    "grouped bottleneck": lambda: nn.Sequential(Bottleneck(8, 6, 2, inner=2, groups=4), nn.Conv2d(24, 4, 1)),
    "wide": lambda: nn.Sequential(WideBlock(8, 12, 2), WideBlock(12, 12, 1)),
    "regnet": lambda: named(**{"block1-0": XBlock(8, 16, 2, 4, True), "block1-1": XBlock(16, 16, 1, 4, False)}),
    "convnext": lambda: nn.Sequential(LayerNorm2d(8), ConvNeXtBlock(8)),
    "inception": lambda: nn.Sequential(Mixed(8, FORKED), Mixed(17, REDUCED, stride=2)),
    "mobilenet_v3": lambda: SqueezedResidual(8, 16, 8, 5, 1, True, nn.Hardswish),
    "efficientnet": lambda: MBConv(8, 8, 3, 1, 6),
    "hourglass": lambda: Hourglass(8, 2),
    "fsrcnn": lambda: zoo.build("fsrcnn", channels=8, width=0.25, layers=1),
    "imdn": lambda: zoo.build("imdn", channels=8, width=0.25, blocks=2),
    "rcan": lambda: zoo.build("rcan", channels=8, width=0.25, groups=1, blocks=1, scale=4),
    "dncnn": lambda: zoo.build("dncnn", channels=8, width=0.25, depth=4),
}


@pytest.mark.parametrize("name", READ)
def test_what_networks_are_made_of_is_read_whole(name: str) -> None:
    """As a graph of known operations that computes the same, whose costs are right and whose channels can be cut."""
    net, x = READ[name]().eval(), torch.randn(2, 8, 16, 16)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        graph = from_module(net, x, name=name).graph
    model = sane_model(graph)
    net.load_state_dict({key: torch.as_tensor(tensor) for key, tensor in model.weights.items()})
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        expected = net(x)
    (returned,) = outputs(model, [x])
    torch.testing.assert_close(returned, expected, rtol=1e-4, atol=1e-4)
    assert expected.std() > 1e-3
    assert unknown(graph) == ()
    assert len(x) * flops(graph) == counter.get_total_flops()
    for seed in range(2):
        assert off(model, some_units(graph, np.random.default_rng(seed)), [x]) < CLOSE


def test_blocks_in_a_row_are_written_as_onnx() -> None:
    net = nn.Sequential(XBlock(8, 8, 1, 4, True), ConvNeXtBlock(8), Mixed(8, FORKED))
    model = sane_model(from_module(net, torch.randn(2, 8, 8, 8)).graph)
    assert verify(to_onnx(model), model, batches=(2,)) < 1e-4


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
    with pytest.raises(SourceError, match=r"no network 'qqq'\. Known: resnet20"):
        zoo.entry("qqq")


def test_unknown_option_lists_the_options() -> None:
    with pytest.raises(SourceError, match=r"'edsr' has no option 'classes'; it takes: channels, width, blocks, scale"):
        zoo.build("edsr", classes=10)
