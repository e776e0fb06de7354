"""The optimisers of the paper's tables for PyTorch's modules, by name, behind one interface.

Baselines come from `torch.optim`, `pytorch_optimizer` and `asdfghjkl` (KFAC); PSGD from
`psgd_core.adapters.torch`. `make` imports what it needs; nothing else here imports PyTorch.
"""

from .methods import NAMES, Method, about, make
from .steps import Loss, Missing, Steps

__all__ = ["NAMES", "Loss", "Method", "Missing", "Steps", "about", "make"]
