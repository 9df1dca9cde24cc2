"""The CIFAR ResNet-20 as a module that can be trained, and its pictures as a data set."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import Dataset

from .common_cifar import split
from .common_data import data_file

MEAN, STD = (
    torch.tensor(values).view(3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
)


def normalised(x: torch.Tensor) -> torch.Tensor:
    """Return (n, 3, 32, 32) images in [0, 1] as the network knows them."""
    return (x - MEAN) / STD


class ResNet20(nn.Module):
    """The CIFAR ResNet-20 with option A shortcuts, of (n, 3, 32, 32) pictures as `normalised` gives them.

    He, Zhang, Ren and Sun 2016, "Deep residual learning for image recognition", section 4.2
    (arXiv 1512.03385).
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU()
        self.layer1 = nn.Sequential(_Block(16, 16), _Block(16, 16), _Block(16, 16))
        self.layer2 = nn.Sequential(_Block(16, 32), _Block(32, 32), _Block(32, 32))
        self.layer3 = nn.Sequential(_Block(32, 64), _Block(64, 64), _Block(64, 64))
        self.linear = nn.Linear(64, 10)

    def embedding(self, x: torch.Tensor) -> torch.Tensor:
        """Return (n, 64) of the last layer but one."""
        x = self.relu(self.bn1(self.conv1(x)))
        found: torch.Tensor = self.layer3(self.layer2(self.layer1(x))).mean(dim=(2, 3))
        return found

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (n, 10) logits."""
        found: torch.Tensor = self.linear(self.embedding(x))
        return found


class _Block(nn.Module):
    def __init__(self, channels: int, wider: int) -> None:
        super().__init__()
        stride = wider // channels
        self.conv1 = nn.Conv2d(channels, wider, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(wider)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(wider, wider, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(wider)
        self.relu2 = nn.ReLU()
        self._stride, self._more = stride, (wider - channels) // 2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        if self._more:
            sides = (0, 0, 0, 0, self._more, self._more)
            x = functional.pad(x[:, :, :: self._stride, :: self._stride], sides)
        found: torch.Tensor = self.relu2(z + x)
        return found


def given() -> ResNet20:
    """Return the network with the weights of `resnet20.pt`."""
    found = ResNet20()
    weights = torch.load(data_file("cifar10/resnet20.pt"), map_location="cpu", weights_only=True)
    found.load_state_dict(weights)
    return found


class Pictures(Dataset[tuple[torch.Tensor, int]]):
    """Pictures of a file, normalised, with their classes.

    Parameters
    ----------
    name
        Of the file: `train6k` or `test3k`.
    augment
        Whether a picture is cut out at random of itself with 4 pixels more on each side, and flipped half of the time, anew each time (section 4.2
        of the same paper), by torch's global generator.
    """

    def __init__(self, name: str, *, augment: bool = False) -> None:
        pixels, classes = split(name)
        x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
        self.inputs = normalised(x)
        self.classes = classes.tolist()
        self._augment = augment

    def __len__(self) -> int:
        return len(self.classes)

    def __getitem__(self, k: int) -> tuple[torch.Tensor, int]:
        x = self.inputs[k]
        if self._augment:
            top, left = torch.randint(0, 9, (2,)).tolist()
            x = functional.pad(x, (4, 4, 4, 4))[:, top : top + 32, left : left + 32]
            x = x.flip(2) if torch.rand(()) < 0.5 else x
        return x, self.classes[k]
