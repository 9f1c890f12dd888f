"""A YAMNet that the user has as a TensorFlow Lite file, as batched torch: the ears' teacher.

YAMNet is MobileNet v1 (Howard et al., arXiv:1704.04861) over log-mel patches of 0.96 s, with 521
AudioSet classes. Neither the file nor its weights are part of this project: they are read where
the user says and only asked. Reading needs the package ai-edge-litert.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from acgd.errors import UserError

STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)  # of the 13 depthwise convolutions
PART = 16  # patches at once: their maps stay in the processor's cache
SAMPLES = 15600  # of one patch with its last window, 16 kHz
# where the file keeps its tensors: first filters and biases, then 13 times depthwise and pointwise
STEM, DEPTHWISE, POINTWISE, BIASES, LAST = (11, 13), 43, 56, 14, (69, 5)


Layer = tuple[Tensor, Tensor]


class Teacher:
    """Log-mel patches to the 1,024 numbers before the last layer and to the class scores.

    stem and last: weight and bias; layers: for each of the 13 pairs of convolutions depthwise
    weight and bias, pointwise weight and bias.
    """

    def __init__(self, stem: Layer, layers: list[tuple[Tensor, ...]], last: Layer):
        self.stem, self.last = stem, last
        self.layers = [(*layer, stride) for layer, stride in zip(layers, STRIDES, strict=True)]

    @classmethod
    def read(cls, path: Path) -> Teacher:
        """The teacher of a .tflite file; a UserError where it is none."""
        try:
            from ai_edge_litert.interpreter import Interpreter, OpResolverType
        except ImportError:
            raise UserError(
                "the teacher needs ai-edge-litert: pip install ai-edge-litert"
            ) from None
        if not Path(path).is_file():
            raise UserError(f"{path}: no file; give YAMNet's .tflite with --teacher")
        plain = OpResolverType.BUILTIN_REF  # no delegate repacks the constants
        try:
            net = Interpreter(str(path), num_threads=1, experimental_op_resolver_type=plain)
            net.allocate_tensors()
        except (ValueError, RuntimeError):
            raise UserError(f"{path}: no TensorFlow Lite model") from None
        about = {int(d["index"]): d for d in net.get_tensor_details()}

        def constant(i: int) -> Tensor:
            return dequantised(net.get_tensor(i), about[i])

        stem = (constant(STEM[0]).permute(0, 3, 1, 2).contiguous(), constant(STEM[1]))
        layers = [
            (
                constant(DEPTHWISE + k).permute(3, 0, 1, 2).contiguous(),
                constant(BIASES + 2 * k),
                constant(POINTWISE + k).permute(0, 3, 1, 2).contiguous(),
                constant(BIASES + 2 * k + 1),
            )
            for k in range(len(STRIDES))
        ]
        found = cls(stem, layers, (constant(LAST[0]), constant(LAST[1])))
        found.check(net, path)
        return found

    def check(self, net: object, path: Path) -> None:
        """Our reading of the file answers as the file does, else UserError."""
        from acgd.models.log_mel_cnn import LogMel

        wave = np.random.default_rng(0).normal(0, 0.1, SAMPLES).astype(np.float32)
        net.set_tensor(net.get_input_details()[0]["index"], wave)
        net.invoke()
        said = net.get_tensor(net.get_output_details()[0]["index"])[0]
        mel = LogMel()(torch.from_numpy(wave)[None])[:, :96]
        ours = torch.sigmoid(self.scores(self(mel)))[0].numpy()
        # the file computes in int8 by parts, ours in float32 throughout
        if said.shape != ours.shape or np.corrcoef(np.sqrt(said), np.sqrt(ours))[0, 1] < 0.9:
            raise UserError(f"{path}: not the YAMNet that is known here; its answers differ")

    @torch.inference_mode()
    def __call__(self, mel: Tensor) -> Tensor:
        """Patches (B, 96, 64) of log-mel frames -> (B, 1024), none below zero."""
        return torch.cat([self.embed(part) for part in mel.split(PART)])

    def embed(self, mel: Tensor) -> Tensor:
        x = mel[:, None].contiguous(memory_format=torch.channels_last)
        x = F.relu(F.conv2d(same(x, 2), *self.stem, stride=2))
        for deep, deep_bias, point, point_bias, stride in self.layers:
            x = same(x, stride)
            x = F.relu(F.conv2d(x, deep, deep_bias, stride, groups=x.shape[1]))
            x = F.relu(F.conv2d(x, point, point_bias))
        return x.mean((2, 3))

    def scores(self, embedding: Tensor) -> Tensor:
        """(B, 1024) -> (B, 521) logits of AudioSet's classes."""
        return F.linear(embedding, *self.last)


def same(x: Tensor, stride: int) -> Tensor:
    """TensorFlow's padding SAME for 3x3 filters: what is odd goes to the end."""
    total = [max(0, (-(-size // stride) - 1) * stride + 3 - size) for size in x.shape[-2:]]
    (top, left), (bottom, right) = [t // 2 for t in total], [t - t // 2 for t in total]
    return F.pad(x, (left, right, top, bottom))


def dequantised(value: np.ndarray, about: dict) -> Tensor:
    """A constant of the file in float32; int8 ones by their scales and zero points."""
    found, how = value.astype(np.float32), about["quantization_parameters"]
    if value.dtype == np.int8 and len(how["scales"]):
        shape = [1] * value.ndim
        if len(how["scales"]) > 1:
            shape[how["quantized_dimension"]] = -1
        zero = how["zero_points"].reshape(shape)
        found = (found - zero) * how["scales"].reshape(shape)
    return torch.from_numpy(np.array(found, np.float32))
