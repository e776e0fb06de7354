"""Transformers: GPT in nanoGPT's form, an encoder of BERT's shape, and small ones for images."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention


class Attention(nn.Module):
    """Multi-head self-attention; PyTorch chooses the kernel (see `differentiable_twice`)."""

    def __init__(self, width: int, heads: int, causal: bool, dropout: float = 0.0, bias: bool = True) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.ask = nn.Linear(width, 3 * width, bias)
        self.answer = nn.Linear(width, width, bias)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Return the same shape, (batch, length, width)."""
        batch, length, _ = x.shape
        q, k, v = self.ask(x).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        dropped = self.drop.p if self.training else 0.0
        found = scaled_dot_product_attention(q, k, v, dropout_p=dropped, is_causal=self.causal)
        mixed: Tensor = self.answer(found.transpose(1, 2).reshape(x.shape))
        return mixed


class Block(nn.Module):
    """Attention and a layer of four times the width, each after LayerNorm and beside a shortcut."""

    def __init__(self, width: int, heads: int, causal: bool, dropout: float = 0.0, bias: bool = True) -> None:
        super().__init__()
        self.attend = nn.Sequential(
            nn.LayerNorm(width, bias=bias),
            Attention(width, heads, causal, dropout, bias),
            nn.Dropout(dropout),
        )
        self.think = nn.Sequential(
            nn.LayerNorm(width, bias=bias),
            nn.Linear(width, 4 * width, bias),
            nn.GELU(),
            nn.Linear(4 * width, width, bias),
            nn.Dropout(dropout),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the same shape."""
        x = x + self.attend(x)
        y: Tensor = x + self.think(x)
        return y


class Transformer(nn.Module):
    """A transformer: of a text, with logits at each place; of an image, on patches.

    Parameters
    ----------
    shape, classes : tuple of int, int
        Of an example; the size of the vocabulary.
    width, heads, depth : int
    patch : int
        Height and width of the patches of an image.
    causal : bool
        Whether a place of a text sees those before it only, and says what comes next. Otherwise it sees all,
        and the vocabulary has a token more, the mask, which comes last.
    dropout : float
    bias : bool
        Whether layers have biases besides their matrices.
    tied : bool
        Whether a text's tokens are read and said by the same matrix.
    deviation : float, optional
        Standard deviation of the initial matrices and embeddings, with biases of zero, and the last matrix
        beside each shortcut divided by ``sqrt(2 depth)``: 0.02 is GPT-2's. PyTorch's own by default.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        classes: int,
        *,
        width: int = 32,
        heads: int = 2,
        depth: int = 2,
        patch: int = 7,
        causal: bool = True,
        dropout: float = 0.0,
        bias: bool = True,
        tied: bool = False,
        deviation: float | None = None,
    ) -> None:
        super().__init__()
        self.text, self.patch = len(shape) == 1, patch
        said = classes + 1 if self.text and not causal else classes
        if self.text:
            length = shape[0]
            self.read: nn.Module = nn.Embedding(said, width)
        else:
            length = (shape[1] // patch) * (shape[2] // patch)
            self.read = nn.Linear(shape[0] * patch * patch, width)
        self.place = nn.Parameter(0.02 * torch.randn(length, width))
        self.drop = nn.Dropout(dropout)
        blocks = (Block(width, heads, self.text and causal, dropout, bias) for _ in range(depth))
        self.blocks = nn.Sequential(*blocks)
        head = nn.Linear(width, said, bias)
        self.say = nn.Sequential(nn.LayerNorm(width, bias=bias), head)
        if deviation is not None:
            self._start(deviation, depth)
        if tied:
            head.weight = self.read.weight

    def forward(self, x: Tensor) -> Tensor:
        """Return logits: (batch, classes), or (batch, length, classes) of a text."""
        if not self.text:
            patches = x.unfold(2, self.patch, self.patch).unfold(3, self.patch, self.patch)
            x = patches.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)
        h = self.blocks(self.drop(self.read(x) + self.place[: x.shape[1]]))
        said: Tensor = self.say(h if self.text else h.mean(dim=1))
        return said

    def _start(self, deviation: float, depth: int) -> None:
        for m in self.modules():
            if isinstance(m, nn.Linear | nn.Embedding):
                nn.init.normal_(m.weight, std=deviation)
            if isinstance(m, nn.Linear) and m.bias is not None:
                nn.init.zeros_(m.bias)
        nn.init.normal_(self.place, std=deviation)
        for name, p in self.blocks.named_parameters():
            if name.endswith(("answer.weight", "think.3.weight")):  # what ends beside a shortcut
                nn.init.normal_(p, std=deviation / (2 * depth) ** 0.5)
