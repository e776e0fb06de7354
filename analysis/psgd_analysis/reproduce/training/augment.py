"""Changes of each batch anew, such as random crops: the same for all optimisers with one seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .masking import mask

Augmentation = Callable[..., tuple[Tensor, Tensor]]
"""Called with (x, y, generator, **options); the generator is the processor's, wherever x is."""


def bernoulli(x: Tensor, y: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw each pixel anew, 1 with its grey for a probability (E.3)."""
    return (torch.rand(x.shape, generator=generator).to(x.device) < x).to(x.dtype), y


def crop(x: Tensor, y: Tensor, generator: torch.Generator, padding: int = 4) -> tuple[Tensor, Tensor]:
    """Cut each image out of itself with a black border, anywhere: it moves by up to `padding` pixels."""
    n, _, height, width = x.shape
    down, right = torch.randint(2 * padding + 1, (2, n, 1), generator=generator).to(x.device)
    rows = (down + torch.arange(height, device=x.device))[:, :, None]
    columns = (right + torch.arange(width, device=x.device))[:, None]
    bordered = torch.nn.functional.pad(x, (padding,) * 4)
    each = torch.arange(n, device=x.device)[:, None, None]
    return bordered.permute(0, 2, 3, 1)[each, rows, columns].permute(0, 3, 1, 2), y


def flip(x: Tensor, y: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Exchange left and right of each image, or not, with equal chances."""
    turned = torch.randint(2, (len(x), 1, 1, 1), generator=generator).to(x.device).bool()
    return torch.where(turned, x.flip(-1), x), y


AUGMENTATIONS: dict[str, Augmentation] = {
    "bernoulli": bernoulli,
    "crop": crop,
    "flip": flip,
    "mask": mask,
}
"""By the name that settings have."""

COUNTED = {"mask"}
"""Those that also need to know the number of classes, as an option."""


def augmented(
    x: Tensor, y: Tensor, augment: Sequence[Mapping[str, Any]], generator: torch.Generator, classes: int
) -> tuple[Tensor, Tensor]:
    """Return a batch after some augmentations, one after the other.

    Parameters
    ----------
    x, y : tensors
        Left as they are.
    augment : sequence of dicts
        Each with a "name", one of `AUGMENTATIONS`, and its options.
    generator : torch.Generator
        On the processor.
    classes : int
        Of the data.
    """
    for one in augment:
        options = {key: value for key, value in one.items() if key != "name"}
        if one["name"] in COUNTED:
            options["classes"] = classes
        x, y = AUGMENTATIONS[one["name"]](x, y, generator, **options)
    return x, y
