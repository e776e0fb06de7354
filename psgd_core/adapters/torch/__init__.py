"""PSGD as a `torch.optim.Optimizer`; needs PyTorch.

Hessian-vector products want the loss before anybody differentiated it, so the closure returns it and `PSGD`
does the rest::

    from psgd_core.adapters.torch import PSGD

    optimizer = PSGD(model.parameters(), psgd_core.LowRank(10), lr=0.05)
    for x, y in batches:
        optimizer.step(lambda: loss_function(model(x), y))  # no zero_grad, no backward

Whitening needs gradients only, and is used like any other optimiser::

    optimizer = PSGD(model.parameters(), psgd_core.XMat(), lr=1e-3, curvature="whitening")
    for x, y in batches:
        optimizer.zero_grad()
        loss_function(model(x), y).backward()
        optimizer.step()

Replicas under `DistributedDataParallel` keep one preconditioner. Its averaging belongs to backward, so where
the optimiser differentiates it is told whom to average with::

    optimizer = PSGD(model.parameters(), process_group=torch.distributed.group.WORLD)
"""

try:
    import torch as _torch  # noqa: F401
except ImportError as error:
    raise ImportError("PyTorch is not installed; pip install torch") from error

from .functions import functions
from .optimizer import PSGD

__all__ = ["PSGD", "functions"]
