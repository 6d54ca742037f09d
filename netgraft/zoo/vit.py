"""Vision transformer: Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from netgraft.zoo.layers import scaled


class Attention(nn.Module):
    """Self-attention of several heads over tokens of shape (batch, tokens, features)."""

    def __init__(self, features: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(features, 3 * features)
        self.project = nn.Linear(features, features)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=2))
        return self.project(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention and a two-layer perceptron, each behind a layer norm and beside a shortcut (equations 2 and 3)."""

    def __init__(self, features: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(features, eps=1e-6)
        self.attention = Attention(features, heads)
        self.norm2 = nn.LayerNorm(features, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(features, 4 * features), nn.GELU(), nn.Linear(4 * features, features))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ViT(nn.Module):
    """Patches as tokens with learned positions and a class token, blocks, and a linear classifier (figure 1)."""

    def __init__(
        self, channels: int, image: int, patch: int, features: int, heads: int, blocks: int, classes: int
    ) -> None:
        super().__init__()
        self.patches = nn.Conv2d(channels, features, patch, stride=patch)
        self.token = nn.Parameter(torch.zeros(1, 1, features))
        self.positions = nn.Parameter(0.02 * torch.randn(1, 1 + (image // patch) ** 2, features))
        self.blocks = nn.Sequential(*(Block(features, heads) for _ in range(blocks)))
        self.norm = nn.LayerNorm(features, eps=1e-6)
        self.head = nn.Linear(features, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1) + self.positions
        return self.head(self.norm(self.blocks(x))[:, 0])


def vit_tiny(
    *, classes: int = 10, channels: int = 3, width: float = 1.0, image: int = 32, patch: int = 4, blocks: int = 12
) -> nn.Module:
    """ViT-Ti, the smallest of DeiT's (Touvron et al., ICML 2021, table 1), for images of ``image`` by ``image`` pixels.

    Three heads of 64 features each, times ``width``.
    """
    heads = 3
    return ViT(channels, image, patch, heads * scaled(64, width), heads, blocks, classes)
