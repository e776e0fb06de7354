"""LSTMs as language models, with the dropout of AWD-LSTM (Merity et al., 2018)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, linear
from torch.nn.modules.dropout import _DropoutNd

from .carried import Carrying


class LockedDropout(_DropoutNd):
    """Dropout that is the same at all places of a piece of text."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the same shape, (batch, length, width)."""
        if not self.training or not self.p:
            return x
        kept = torch.ones_like(x[:, :1])
        dropped: Tensor = x * nn.functional.dropout(kept, self.p)
        return dropped


class Layer(Carrying):
    """A layer of an LSTM, put together of linear maps: cuDNN's cannot be differentiated twice.

    It begins where the batch before ended. Gates are in PyTorch's order: input, forget, cell, output.

    Parameters
    ----------
    given, width : int
    dropout : float
        Of the weights from state to gates (DropConnect).
    """

    def __init__(self, given: int, width: int, dropout: float) -> None:
        super().__init__()
        self.read, self.remember = nn.Linear(given, 4 * width), nn.Linear(width, 4 * width)
        self.drop = nn.Dropout(dropout)
        for p in self.parameters():
            nn.init.uniform_(p, -(width**-0.5), width**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Return what the layer says at each place, (batch, length, width)."""
        weight = self.drop(self.remember.weight)
        zeros = x.new_zeros(len(x), weight.shape[1])
        h, c = self.begin((zeros, zeros))
        said = []
        for given in self.read(x).unbind(dim=1):
            i, f, g, o = (given + linear(h, weight, self.remember.bias)).chunk(4, dim=1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            said.append(h)
        self.end((h, c))
        return torch.stack(said, dim=1)


class LSTM(nn.Module):
    """An LSTM that says the next word after each, which it reads and says by the same matrix.

    Parameters
    ----------
    shape, classes : tuple of int, int
        Of a piece of text; the size of the vocabulary.
    width : int
        Of the words' vectors, and of the last layer.
    hidden : int
        Width of the layers before the last.
    depth : int
        Layers.
    words, inputs, between, outputs, weights : float
        Dropout of whole words of the vocabulary, of the words' vectors, between layers, after the last, and
        of the weights from state to gates.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        classes: int,
        *,
        width: int = 400,
        hidden: int = 1150,
        depth: int = 1,
        words: float = 0.0,
        inputs: float = 0.0,
        between: float = 0.0,
        outputs: float = 0.0,
        weights: float = 0.0,
    ) -> None:
        super().__init__()
        if len(shape) != 1:
            raise ValueError(f"`shape` must be that of texts for 'lstm', got {shape}")
        self.vectors = nn.Parameter(torch.empty(classes, width).uniform_(-0.1, 0.1))
        self.bias = nn.Parameter(torch.zeros(classes))
        widths = [width, *[hidden] * (depth - 1), width]
        layers: list[nn.Module] = [LockedDropout(inputs)]
        for i in range(depth):
            layers.append(Layer(widths[i], widths[i + 1], weights))
            layers.append(LockedDropout(between if i < depth - 1 else outputs))
        self.layers = nn.Sequential(*layers)
        self.drop = nn.Dropout(words)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits, (batch, length, classes)."""
        vectors = self.vectors * self.drop(torch.ones_like(self.vectors[:, :1]))
        return linear(self.layers(embedding(x, vectors)), self.vectors, self.bias)
