"""The models of the experiments as PyTorch modules, by name, each with an initialisation of its own seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from . import activations
from .convolution import InputConv2d
from .lstm import LSTM
from .outer_products import OuterProducts
from .residual import resnet
from .transformer import Transformer


def make(
    name: str, shape: tuple[int, ...], classes: int, settings: Mapping[str, Any], seed: int
) -> nn.Module:
    """Return a model for one kind of example.

    PyTorch's own generator is left as it was.

    Parameters
    ----------
    name : str
        One of `MODELS`.
    shape : tuple of int
        Of an example: (colours, height, width) of images, (length,) of texts.
    classes : int
        Or the size of the vocabulary.
    settings : dict
        Keyword arguments of the model besides these.
    seed : int

    Raises
    ------
    ValueError
        If there is none of this name, or it takes no examples of this shape.
    """
    if name not in MODELS:
        raise ValueError(f"`name` must be one of {', '.join(MODELS)}, got {name!r}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MODELS[name](shape, classes, **settings)


def lenet5(
    shape: tuple[int, ...],
    classes: int,
    *,
    deviation: float | None = None,
    activation: str = "relu",
    pooling: str = "max",
) -> nn.Module:
    """Return LeNet5 as in E.1: 44,426 parameters for images of 28 x 28, max pooling and ReLU throughout.

    Parameters
    ----------
    deviation : float, optional
        Standard deviation of all initial parameters, biases included: 0.1 in the code of the paper's authors;
        PyTorch's initialisation by default. The paper does not say.
    activation, pooling : str
        Names, see `activations`.
    """
    if len(shape) != 3 or min(shape[1:]) < 16:
        raise ValueError(f"`shape` must be that of images of at least 16 x 16 for 'lenet5', got {shape}")
    height, width = (((size - 4) // 2 - 4) // 2 for size in shape[1:])
    model = nn.Sequential(
        InputConv2d(shape[0], 6, 5),
        activations.pooling(pooling, 2),
        activations.activation(activation),
        nn.Conv2d(6, 16, 5),
        activations.pooling(pooling, 2),
        activations.activation(activation),
        nn.Flatten(),
        nn.Linear(16 * height * width, 120),
        activations.activation(activation),
        nn.Linear(120, 84),
        activations.activation(activation),
        nn.Linear(84, classes),
    )
    if deviation is not None:
        for p in model.parameters():
            nn.init.normal_(p, std=deviation)
    return model


def softmax(shape: tuple[int, ...], classes: int) -> nn.Module:
    """Return softmax regression on the pixels."""
    return mlp(shape, classes, hidden=())


def mlp(
    shape: tuple[int, ...], classes: int, *, hidden: tuple[int, ...] = (100,), activation: str = "tanh"
) -> nn.Module:
    """Return a network of fully connected layers with an activation between them; see `activations`."""
    if len(shape) != 3:
        raise ValueError(f"`shape` must be that of images for 'mlp' and 'softmax', got {shape}")
    widths = [shape[0] * shape[1] * shape[2], *hidden, classes]
    layers: list[nn.Module] = [nn.Flatten()]
    for i in range(len(widths) - 1):
        layers += [nn.Linear(widths[i], widths[i + 1]), activations.activation(activation)]
    return nn.Sequential(*layers[:-1])


class Recurrent(nn.Module):
    """A recurrent network with tanh that reads an image row by row, or a text character by character.

    It says a class after the last row, or the next character after each. Its layers are put together of
    linear ones: a fused RNN cannot be differentiated twice everywhere.
    """

    def __init__(self, shape: tuple[int, ...], classes: int, *, width: int = 64) -> None:
        super().__init__()
        self.text = len(shape) == 1
        self.read: nn.Module = (
            nn.Embedding(classes, width) if self.text else nn.Linear(shape[0] * shape[2], width)
        )
        self.remember = nn.Linear(width, width)
        self.say = nn.Linear(width, classes)
        nn.init.orthogonal_(self.remember.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits: (batch, classes), or (batch, length, classes) of a text."""
        steps = x if self.text else x.permute(0, 2, 1, 3).flatten(2)
        given = self.read(steps)
        h = torch.zeros_like(given[:, 0])
        hidden = []
        for t in range(given.shape[1]):
            h = torch.tanh(given[:, t] + self.remember(h))
            hidden.append(h)
        said: Tensor = self.say(torch.stack(hidden, dim=1) if self.text else h)
        return said


MODELS: dict[str, Callable[..., nn.Module]] = {
    "lenet5": lenet5,
    "softmax": softmax,
    "mlp": mlp,
    "rnn": Recurrent,
    "lstm": LSTM,
    "transformer": Transformer,
    "outer_products": OuterProducts,
    "resnet": resnet,
}
