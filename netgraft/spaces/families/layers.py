"""What the families have in common: images, layers that keep or halve the map, sums, and the classifier.

The published networks pad as TensorFlow's SAME does. Kernels are odd wherever they pad, so ``kernel // 2`` on both
sides gives the same sizes; at stride 2 on an even map TensorFlow pads less on the left and above: the one deviation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from netgraft.ir import Batch, Builder, Graph, TensorType, Value

IMAGE: Final = TensorType((Batch(), 3, 32, 32))
CLASSES: Final = 10


class Network:
    """A graph in the making; ``at`` is the id of what is added, or what the ids of its parts begin with.

    ``eps`` and ``momentum`` are those of its batch norms, the momentum as PyTorch counts it (the share of the new
    batch: one minus TensorFlow's); ``bias`` says whether its convolutions have one.
    """

    def __init__(self, *, eps: float, momentum: float, bias: bool = False) -> None:
        self._builder = Builder()
        self._norm: dict[str, Any] = {"eps": eps, "momentum": momentum}
        self._bias = bias
        self.image = self._builder.input("x", IMAGE)

    def add(self, at: str, op: str, *inputs: Value, **attrs: Any) -> Value:
        """Any other node."""
        return self._builder.add(op, *inputs, id=at, **attrs)

    def channels(self, x: Value) -> int:
        """Number of channels of an image."""
        return int(self._builder.type(x).concrete()[1])

    def conv(
        self,
        at: str,
        x: Value,
        channels: int,
        kernel: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        *,
        groups: int = 1,
        bias: bool | None = None,
    ) -> Value:
        """A convolution, alone."""
        height, width = kernel = _pair(kernel)
        return self._builder.add(
            "conv2d",
            x,
            id=at,
            out_channels=channels,
            kernel=kernel,
            stride=_pair(stride),
            padding=(height // 2, width // 2),
            groups=groups,
            bias=self._bias if bias is None else bias,
        )

    def norm(self, at: str, x: Value) -> Value:
        """A batch norm."""
        return self._builder.add("batch_norm", x, id=at, **self._norm)

    def unit(
        self,
        at: str,
        x: Value,
        channels: int,
        kernel: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        activation: str | None = None,
        *,
        groups: int = 1,
    ) -> Value:
        """A convolution, its batch norm and, where one is named, an activation."""
        x = self.norm(f"{at}.bn", self.conv(f"{at}.conv", x, channels, kernel, stride, groups=groups))
        return x if activation is None else self._builder.add(activation, x, id=f"{at}.{activation}")

    def pool(self, at: str, op: str, x: Value, kernel: int = 3, stride: int = 1) -> Value:
        """``max_pool2d`` or ``avg_pool2d``; an average is one of real cells only."""
        attrs: dict[str, Any] = {"count_include_pad": False} if op == "avg_pool2d" else {}
        padding = (kernel // 2, kernel // 2) if kernel % 2 else (0, 0)
        return self._builder.add(op, x, id=at, kernel=_pair(kernel), stride=_pair(stride), padding=padding, **attrs)

    def total(self, at: str, *terms: Value) -> Value:
        """The sum of terms from left to right, two at a time; a single term as it is."""
        total = terms[0]
        for number, term in enumerate(terms[1:], 1):
            total = self._builder.add("add", total, term, id=at if number == 1 else f"{at}_{number}")
        return total

    def concat(self, at: str, parts: Sequence[Value]) -> Value:
        """Images joined along their channels; a single one as it is."""
        return parts[0] if len(parts) == 1 else self._builder.add("concat", *parts, id=at)

    def shuffle(self, at: str, x: Value, groups: int) -> Value:
        """The channels of ``groups`` groups of an image, interleaved."""
        channels, height, width = (int(size) for size in self._builder.type(x).concrete()[1:])
        x = self.add(f"{at}.split", "reshape", x, shape=(-1, groups, channels // groups, height, width))
        x = self.add(f"{at}.turn", "permute", x, dims=(0, 2, 1, 3, 4))
        return self.add(f"{at}.join", "reshape", x, shape=(-1, channels, height, width))

    def classify(self, x: Value, *, identity: bool, classes: int = CLASSES) -> Graph:
        """The finished graph: global average, the ``identity`` that is a dropout of rate 0, and the classifier."""
        x = self._builder.add("mean", x, id="head.mean", dims=(2, 3))
        if identity:
            x = self._builder.add("identity", x, id="head.identity")
        return self._builder.build(self._builder.add("linear", x, id="head.linear", out_features=classes))


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return size if isinstance(size, tuple) else (size, size)
