"""The one training loop for PyTorch's modules: any model, data set and optimiser by name, from settings.

What is measured besides losses and accuracies is a list of `measures`.
"""

from .examples import Batches, Examples, examples_of
from .measure import Measure
from .measures import MEASURES
from .networks import NetworkTraining, examples_for, start
from .rates import rate_of

__all__ = [
    "MEASURES",
    "Batches",
    "Examples",
    "Measure",
    "NetworkTraining",
    "examples_for",
    "examples_of",
    "rate_of",
    "start",
]
