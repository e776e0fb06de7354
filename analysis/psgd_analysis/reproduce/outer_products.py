"""Logistic regression on the outer products of images, ``x (x) x``, which are never built (appendix E.3).

With D pixels there are ``D^2`` features for each of C classes. The logits are ``z_k = x^T W_k x``: of B
images, one product (B, D) (D, C D). What autograd makes of them is the closed form: the gradient
``X^T diag(r_k) X`` in one product (D, B) (B, C D), and a Hessian-vector product in two more. Building the
features costs seven times as much.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d


class OuterProducts(nn.Module):
    """``z_k = x^T W_k x``, from W = 0 and without a bias.

    Parameters
    ----------
    shape : tuple of int
        Of an image, (1, size, size).
    classes : int
    side : int
        The regression is on side^2 pixels, means over squares of the image's. x is as long as the image with
        each square filled by its mean, so that learning rates stay what they are.

    Raises
    ------
    ValueError
        If images are not grey and square, or `side` does not divide theirs.
    """

    def __init__(self, shape: tuple[int, ...], classes: int, *, side: int) -> None:
        super().__init__()
        if len(shape) != 3 or shape[0] != 1 or shape[1] != shape[2]:
            raise ValueError(f"`shape` must be that of grey, square images for 'outer_products', got {shape}")
        if side < 1 or shape[1] % side:
            raise ValueError(f"`side` must divide {shape[1]}, that of the images, got {side}")
        self.square = shape[1] // side
        self.weight = nn.Parameter(torch.zeros(side**2, classes, side**2))

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (B, classes) of images (B, 1, size, size)."""
        pixels, classes, _ = self.weight.shape
        x = images if self.square == 1 else self.square * avg_pool2d(images, self.square)
        x = x.flatten(1)
        halves = (x @ self.weight.view(pixels, classes * pixels)).view(-1, classes, pixels)
        return torch.bmm(halves, x[:, :, None])[:, :, 0]
