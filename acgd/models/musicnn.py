"""musicnn: a tagger of music with filters shaped like timbres and rhythms.

Pons & Serra, "musicnn: Pre-trained convolutional neural networks for music audio tagging",
arXiv:1909.06654. Key names are those of the published files. B is the batch, T the samples, F the
frames.
"""

from __future__ import annotations

import librosa
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from acgd.models.harmonic_cnn import PowerSpectrogram, decibels

SAMPLE_RATE = 16000  # Hz
CHUNK = 48000  # samples that it was trained on, 3 s
WIDTHS = {"mtt": (64, 200), "msd": (512, 500)}  # back end and dense layer, by training data


class MelScale(nn.Module):
    """(B, bins, F) powers -> (B, n_mels, F): HTK mels, triangles of height 1."""

    fb: Tensor

    def __init__(self, sample_rate: int, n_fft: int, n_mels: int) -> None:
        super().__init__()
        bank = librosa.filters.mel(
            sr=sample_rate, n_fft=n_fft, n_mels=n_mels, fmax=sample_rate / 2, htk=True, norm=None
        )
        self.register_buffer("fb", torch.from_numpy(bank.T.copy()))  # (bins, n_mels)

    def forward(self, power: Tensor) -> Tensor:
        return self.fb.T @ power


class MelSpectrogram(nn.Module):
    """(B, T) -> (B, n_mels, F) powers."""

    def __init__(self, sample_rate: int, n_fft: int, n_mels: int) -> None:
        super().__init__()
        self.spectrogram = PowerSpectrogram(n_fft)
        self.mel_scale = MelScale(sample_rate, n_fft, n_mels)

    def forward(self, wave: Tensor) -> Tensor:
        return self.mel_scale(self.spectrogram(wave))


class Vertical(nn.Module):
    """Timbre: (B, 1, mels, F) -> (B, outputs, F), filters tall in frequency, then its maximum."""

    def __init__(self, outputs: int, height: int, width: int = 7) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, outputs, (height, width), padding=(0, width // 2))
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x))).amax(2)


class Horizontal(nn.Module):
    """Rhythm: (B, 1, mels, F) -> (B, outputs, F), filters long in time over the mean of mels."""

    def __init__(self, outputs: int, length: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, outputs, length, padding=length // 2)
        self.bn = nn.BatchNorm1d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x.mean(2))))


class Conv(nn.Module):
    """(B, inputs, F) -> (B, outputs, F): convolution of seven frames, batch norm, ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(inputs, outputs, 7, padding=3)
        self.bn = nn.BatchNorm1d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class Musicnn(nn.Module):
    """(B, T) float32 wave in [-1, 1] at sample_rate -> tags (B, n_class), in [0, 1].

    `features` is what captioning takes; the tagger's head (dense1, bn, dense2) is in the files.
    dataset: "mtt" (MagnaTagATune) or "msd" (the wider one of the Million Song Dataset).
    """

    sample_rate, chunk = SAMPLE_RATE, CHUNK

    def __init__(
        self,
        dataset: str = "mtt",
        sample_rate: int = SAMPLE_RATE,
        n_fft: int = 512,
        n_mels: int = 96,
        n_class: int = 50,
    ) -> None:
        super().__init__()
        width, dense = WIDTHS[dataset]
        self.spec = MelSpectrogram(sample_rate, n_fft, n_mels)
        self.spec_bn = nn.BatchNorm2d(1)
        tall = [Vertical(204, int(share * n_mels)) for share in (0.7, 0.4)]
        self.layers = nn.ModuleList([*tall, *(Horizontal(51, n) for n in (129, 65, 33))])
        front = 2 * 204 + 3 * 51
        self.layer1 = Conv(front, width)
        self.layer2 = Conv(width, width)
        self.layer3 = Conv(width, width)
        self.dim = front + 3 * width
        self.dense1 = nn.Linear(2 * self.dim, dense)
        self.bn = nn.BatchNorm1d(dense)
        self.dense2 = nn.Linear(dense, n_class)

    def map(self, wave: Tensor) -> Tensor:
        """(B, T) -> (B, dim, F): the front end's channels and those of three more layers."""
        x = self.spec_bn(decibels(self.spec(wave))[:, None])  # (B, 1, mels, F)
        front = torch.cat([layer(x) for layer in self.layers], 1)
        one = self.layer1(front)
        two = self.layer2(one) + one
        three = self.layer3(two) + two
        return torch.cat([front, one, two, three], 1)

    def features(self, wave: Tensor) -> Tensor:
        """(B, T) of about `chunk` samples -> (B, dim), the maximum over time."""
        return self.map(wave).amax(-1)

    def forward(self, wave: Tensor) -> Tensor:
        x = self.map(wave)
        x = torch.cat([x.amax(-1), x.mean(-1)], 1)
        x = F.relu(self.bn(self.dense1(x)))
        return torch.sigmoid(self.dense2(F.dropout(x, 0.5, self.training)))
