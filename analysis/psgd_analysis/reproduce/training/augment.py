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


AUGMENTATIONS: dict[str, Augmentation] = {"bernoulli": bernoulli, "mask": mask}
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
