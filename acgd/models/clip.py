"""CLIP: image and text towers with the published key names.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision",
arXiv:2103.00020. The image tower is a ModifiedResNet (layers given as a list: three-convolution
stem, average pools in front of strided convolutions, attention pool) or a ViT (layers given as
a number). Activations are QuickGELU, layer norms are computed in float32 whatever the weights'
dtype, and attention runs through scaled_dot_product_attention.

Pixels here are already normalised with CLIP's mean and deviation; acgd/encoders does that.
N is the number of pictures or texts, L of tokens, D the embedding size.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from acgd.models.frozen import BatchNorm2d, Conv2d, Linear


class LayerNorm(nn.LayerNorm):
    """Layer norm computed in float32, returned in the input's dtype."""

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight.float(), self.bias.float()
        return F.layer_norm(x.float(), self.normalized_shape, weight, bias, self.eps).to(x.dtype)


class QuickGELU(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class Attention(nn.Module):
    """Self-attention; parameters are named and shaped like nn.MultiheadAttention's."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is no multiple of {heads} heads")
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor, causal: bool = False) -> Tensor:
        qkv = F.linear(x, self.in_proj_weight, self.in_proj_bias)  # (N, L, 3 * width)
        q, k, v = qkv.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        x = F.scaled_dot_product_attention(q, k, v, is_causal=causal)  # (N, heads, L, width/heads)
        return self.out_proj(x.transpose(1, 2).flatten(2))


class ResidualAttentionBlock(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attn = Attention(width, heads)
        self.ln_1 = LayerNorm(width)
        mlp = [("c_fc", nn.Linear(width, 4 * width)), ("gelu", QuickGELU())]
        mlp.append(("c_proj", nn.Linear(4 * width, width)))
        self.mlp = nn.Sequential(OrderedDict(mlp))
        self.ln_2 = LayerNorm(width)

    def init_parameters(self, width: int, into: float, out: float) -> None:
        """Normal weights; `into` and `out` are the deviations of what enters and leaves."""
        fc, proj = cast(nn.Linear, self.mlp[0]), cast(nn.Linear, self.mlp[2])
        nn.init.normal_(self.attn.in_proj_weight, std=into)
        nn.init.normal_(self.attn.out_proj.weight, std=out)
        nn.init.zeros_(self.attn.out_proj.bias)
        nn.init.normal_(fc.weight, std=(2 * width) ** -0.5)
        nn.init.normal_(proj.weight, std=out)

    def forward(self, x: Tensor, causal: bool) -> Tensor:
        x = x + self.attn(self.ln_1(x), causal)
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    """Pre-norm residual blocks over (N, L, width); causal for text."""

    def __init__(self, width: int, layers: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.causal = causal
        blocks = [ResidualAttentionBlock(width, heads) for _ in range(layers)]
        self.resblocks = nn.Sequential(*blocks)
        into, out = width**-0.5, width**-0.5 * (2 * layers) ** -0.5
        for block in blocks:
            block.init_parameters(width, into, out)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.resblocks:
            x = block(x, self.causal)
        return x


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 with every stride taken by an average pool, on the skip path too."""

    expansion = 4

    def __init__(self, inplanes: int, planes: int, stride: int = 1) -> None:
        super().__init__()
        out = planes * self.expansion
        self.conv1 = Conv2d(inplanes, planes, 1, bias=False)
        self.bn1 = BatchNorm2d(planes)
        self.conv2 = Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = BatchNorm2d(planes)
        self.pool = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()
        self.conv3 = Conv2d(planes, out, 1, bias=False)
        self.bn3 = BatchNorm2d(out)
        nn.init.zeros_(self.bn3.weight)
        self.downsample = None
        if stride > 1 or inplanes != out:
            skip = [("-1", nn.AvgPool2d(stride)), ("0", Conv2d(inplanes, out, 1, bias=False))]
            skip.append(("1", BatchNorm2d(out)))
            self.downsample = nn.Sequential(OrderedDict(skip))

    def forward(self, x: Tensor) -> Tensor:
        skip = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.pool(F.relu(self.bn2(self.conv2(x))))
        return F.relu(self.bn3(self.conv3(x)) + skip)


class AttentionPool2d(nn.Module):
    """Attention whose only query is the mean token: (N, C, h, w) -> (N, D)."""

    def __init__(self, side: int, width: int, heads: int, output_dim: int) -> None:
        super().__init__()
        self.heads = heads
        self.positional_embedding = nn.Parameter(torch.randn(side**2 + 1, width) * width**-0.5)
        self.k_proj = Linear(width, width)
        self.q_proj = Linear(width, width)
        self.v_proj = Linear(width, width)
        self.c_proj = Linear(width, output_dim)
        for layer in (self.k_proj, self.q_proj, self.v_proj, self.c_proj):
            nn.init.normal_(layer.weight, std=width**-0.5)

    def split_heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (N, heads, L, width/heads)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(2).transpose(1, 2)  # (N, hw, C)
        x = torch.cat([x.mean(1, keepdim=True), x], 1) + self.positional_embedding.to(x.dtype)
        # x[:, :1] would be the same, but being no whole tensor it makes torch copy the weight
        q = self.split_heads(self.q_proj(x[:, 0])[:, None])
        k, v = self.split_heads(self.k_proj(x)), self.split_heads(self.v_proj(x))
        x = F.scaled_dot_product_attention(q, k, v)  # (N, heads, 1, width/heads)
        return self.c_proj(x.flatten(1))


class ModifiedResNet(nn.Module):
    """CLIP's ResNet: (N, 3, S, S) -> (N, D); the last feature map has side S // 32."""

    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential
    layer4: nn.Sequential

    def __init__(
        self, layers: Sequence[int], output_dim: int, heads: int, resolution: int, width: int
    ) -> None:
        super().__init__()
        self.conv1 = Conv2d(3, width // 2, 3, stride=2, padding=1, bias=False)
        self.bn1 = BatchNorm2d(width // 2)
        self.conv2 = Conv2d(width // 2, width // 2, 3, padding=1, bias=False)
        self.bn2 = BatchNorm2d(width // 2)
        self.conv3 = Conv2d(width // 2, width, 3, padding=1, bias=False)
        self.bn3 = BatchNorm2d(width)
        inplanes = width
        for i, blocks in enumerate(layers):
            planes, stride = width * 2**i, 1 if i == 0 else 2
            stage = [Bottleneck(inplanes, planes, stride)]
            inplanes = planes * Bottleneck.expansion
            stage += [Bottleneck(inplanes, planes) for _ in range(1, blocks)]
            self.add_module(f"layer{i + 1}", nn.Sequential(*stage))
        self.attnpool = AttentionPool2d(resolution // 32, inplanes, heads, output_dim)

    def features(self, x: Tensor) -> Tensor:
        """(N, 3, S, S) -> (N, 32 * width, S // 32, S // 32), what the attention pool sees."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        x = F.relu(self.bn3(self.conv3(x)))
        x = F.avg_pool2d(x, 2)
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))

    def forward(self, x: Tensor) -> Tensor:
        return self.attnpool(self.features(x))


class VisionTransformer(nn.Module):
    """ViT whose class token is the picture's embedding: (N, 3, S, S) -> (N, D)."""

    def __init__(
        self, resolution: int, patch_size: int, width: int, layers: int, heads: int, output_dim: int
    ) -> None:
        super().__init__()
        scale, tokens = width**-0.5, (resolution // patch_size) ** 2 + 1
        self.conv1 = Conv2d(3, width, patch_size, stride=patch_size, bias=False)
        self.class_embedding = nn.Parameter(scale * torch.randn(width))
        self.positional_embedding = nn.Parameter(scale * torch.randn(tokens, width))
        self.ln_pre = LayerNorm(width)
        self.transformer = Transformer(width, layers, heads, causal=False)
        self.ln_post = LayerNorm(width)
        self.proj = nn.Parameter(scale * torch.randn(width, output_dim))

    def tokens(self, x: Tensor) -> Tensor:
        """(N, 3, S, S) -> (N, 1 + patches, width), as the last block leaves them; class first."""
        x = self.conv1(x).flatten(2).transpose(1, 2)  # (N, patches, width)
        start = self.class_embedding.to(x.dtype).expand(len(x), 1, -1)
        x = torch.cat([start, x], 1) + self.positional_embedding.to(x.dtype)
        return self.transformer(self.ln_pre(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.ln_post(self.tokens(x)[:, 0]) @ self.proj


class CLIP(nn.Module):
    """Image and text encoders into one space.

    vision_layers: a list (ModifiedResNet) or a number (ViT, which needs vision_patch_size).
    Heads default to one for every 64 channels.
    """

    def __init__(
        self,
        embed_dim: int,
        image_resolution: int,
        vision_layers: Sequence[int] | int,
        vision_width: int,
        vision_patch_size: int | None = None,
        context_length: int = 77,
        vocab_size: int = 49408,
        transformer_width: int = 512,
        transformer_heads: int | None = None,
        transformer_layers: int = 12,
        vision_heads: int | None = None,
    ) -> None:
        super().__init__()
        self.image_resolution, self.context_length = image_resolution, context_length
        if isinstance(vision_layers, int):
            if vision_patch_size is None:
                raise ValueError("a ViT needs vision_patch_size")
            heads, depth = vision_heads or max(1, vision_width // 64), vision_layers
            self.visual: VisionTransformer | ModifiedResNet = VisionTransformer(
                image_resolution, vision_patch_size, vision_width, depth, heads, embed_dim
            )
        else:
            heads = vision_heads or max(1, vision_width * 32 // 64)
            self.visual = ModifiedResNet(
                list(vision_layers), embed_dim, heads, image_resolution, vision_width
            )
        heads = transformer_heads or max(1, transformer_width // 64)
        self.transformer = Transformer(transformer_width, transformer_layers, heads, causal=True)
        self.token_embedding = nn.Embedding(vocab_size, transformer_width)
        self.positional_embedding = nn.Parameter(torch.empty(context_length, transformer_width))
        self.ln_final = LayerNorm(transformer_width)
        self.text_projection = nn.Parameter(torch.empty(transformer_width, embed_dim))
        self.logit_scale = nn.Parameter(torch.tensor(1 / 0.07).log())
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.positional_embedding, std=0.01)
        nn.init.normal_(self.text_projection, std=transformer_width**-0.5)

    @property
    def dtype(self) -> torch.dtype:
        return self.visual.conv1.weight.dtype

    def encode_image(self, images: Tensor) -> Tensor:
        """(N, 3, S, S), normalised with CLIP's mean and deviation -> (N, D), not unit norm."""
        return self.visual(images.to(self.dtype))

    def encode_text(self, tokens: Tensor) -> Tensor:
        """(N, L) token ids -> (N, D), not unit norm.

        The feature is read at the largest id, which is the end token. Attention is causal, so
        what stands behind the last end token of the batch is cut off: same result, less work.
        """
        end = tokens.argmax(-1)
        tokens = tokens[:, : int(end.max()) + 1]
        x = self.token_embedding(tokens).to(self.dtype)
        x = x + self.positional_embedding[: tokens.shape[1]].to(self.dtype)
        x = self.ln_final(self.transformer(x))
        return x[torch.arange(len(x), device=x.device), end] @ self.text_projection

    def forward(self, images: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Scaled cosine similarities: (images, texts) and its transpose."""
        image = F.normalize(self.encode_image(images), dim=-1)
        text = F.normalize(self.encode_text(tokens), dim=-1)
        logits = self.logit_scale.exp() * image @ text.T
        return logits, logits.T


def sizes(state: dict[str, Tensor]) -> dict:
    """CLIP's arguments as the shapes of a published file's tensors tell them; {} for other files.

    Numbers of heads cannot be told: they are the published one for every 64 channels.
    """
    if not {"visual.conv1.weight", "text_projection", "positional_embedding"} <= state.keys():
        return {}
    shape = lambda key: state[key].shape  # noqa: E731
    architecture: dict[str, Any] = {
        "embed_dim": shape("text_projection")[1],
        "context_length": shape("positional_embedding")[0],
        "vocab_size": shape("token_embedding.weight")[0],
        "transformer_width": shape("text_projection")[0],
        "transformer_layers": count(state, "transformer.resblocks."),
    }
    if "visual.proj" in state:
        width, _, patch, _ = shape("visual.conv1.weight")
        side = math.isqrt(shape("visual.positional_embedding")[0] - 1)  # in patches
        architecture |= {"vision_patch_size": patch, "image_resolution": side * patch}
        architecture["vision_layers"] = count(state, "visual.transformer.resblocks.")
    else:
        width = shape("visual.layer1.0.conv1.weight")[0]
        side = math.isqrt(shape("visual.attnpool.positional_embedding")[0] - 1)
        architecture["image_resolution"] = 32 * side
        architecture["vision_layers"] = [count(state, f"visual.layer{i}.") for i in range(1, 5)]
    return architecture | {"vision_width": width}


def count(state: dict[str, Tensor], prefix: str) -> int:
    """How many numbered blocks have keys that start with `prefix`."""
    return len({key[len(prefix) :].split(".")[0] for key in state if key.startswith(prefix)})


def halve_(model: CLIP, dtype: torch.dtype = torch.float16) -> CLIP:
    """Cast in place what the published files store as float16; the rest stays float32.

    Convolutions, linear layers, attention weights and the two projections are cast; embeddings,
    norms, batch-norm statistics and scales are not, nor is an audio head, whose decibels need
    float32.
    """
    head = getattr(model, "audio", None)
    audio = set(head.modules()) if isinstance(head, nn.Module) else set()
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear | Attention) and module not in audio:
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.to(dtype)
    model.text_projection.data = model.text_projection.data.to(dtype)
    if isinstance(model.visual, VisionTransformer):
        model.visual.proj.data = model.visual.proj.data.to(dtype)
    return model
