"""A small network of a user's own; the tests copy this file into the folder that they run in."""

import torch
from torch import nn


class Excite(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.squeeze = nn.Conv2d(channels, channels // 4, 1)
        self.excite = nn.Conv2d(channels // 4, channels, 1)

    def forward(self, x):
        scale = x.mean((2, 3), keepdim=True)
        return x * torch.sigmoid(self.excite(torch.relu(self.squeeze(scale))))


class Block(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.excite = Excite(channels)
        self.widen = nn.Conv2d(channels, 2 * channels, 1)
        self.narrow = nn.Conv2d(2 * channels, channels, 1, bias=False)
        self.last = nn.BatchNorm2d(channels)

    def forward(self, x):
        inner = self.excite(torch.relu(self.norm(self.depthwise(x))))
        inner = self.narrow(nn.functional.gelu(self.widen(inner)))
        return x + self.last(inner)


class UserNetwork(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.block = Block(16)
        self.head = nn.Linear(16, 5)
        self.pretrained_cfg = {
            "input_size": (3, 32, 32),
            "mean": (0.5, 0.4, 0.45),
            "std": (0.25, 0.2, 0.3),
            "interpolation": "bilinear",
            "crop_pct": 0.875,
        }

    def forward(self, x):
        x = self.block(torch.relu(self.norm(self.stem(x))))
        return self.head(x.mean((2, 3)))


def build():
    """A network whose BatchNorm statistics are those of noisy pictures, moved a little: never the default ones."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(5)
        network = UserNetwork()
        norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
        pictures = 1.2 * torch.randn(64, 3, 1, 1) + 0.5 * torch.randn(64, 3, 32, 32)
        for norm in norms:
            norm.momentum = None
        network.train()(pictures)
        for norm in norms:
            norm.running_mean += 0.1 * torch.randn(norm.num_features)
            norm.running_var *= 0.7 + 0.6 * torch.rand(norm.num_features)
            norm.weight.copy_(0.6 + 0.8 * torch.rand(norm.num_features))
            norm.bias.copy_(0.2 * torch.randn(norm.num_features))
        network.eval()
        network.head.weight *= 4  # pictures of different colours get different answers
        network.head.bias -= network(pictures).mean(0)
    return network
