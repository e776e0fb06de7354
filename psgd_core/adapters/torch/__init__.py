"""PSGD as a `torch.optim.Optimizer`; needs PyTorch.

Hessian-vector products need the undifferentiated loss, so the closure returns it and `PSGD` does the rest::

    from psgd_core.adapters.torch import PSGD

    optimizer = PSGD(model.parameters(), psgd_core.LowRank(10), lr=0.05)
    for x, y in batches:
        optimizer.step(lambda: loss_function(model(x), y))  # no zero_grad, no backward

Whitening needs only gradients, and is used like any other optimiser::

    optimizer = PSGD(model.parameters(), psgd_core.XMat(), lr=1e-3, curvature="whitening")
    for x, y in batches:
        optimizer.zero_grad()
        loss_function(model(x), y).backward()
        optimizer.step()

Layer by layer, matrices one way and vectors another, P fitted in every tenth step, and what else the closure
has to say::

    groups = groups_of(model, matrices=psgd_core.Kronecker, vectors=lambda shape: psgd_core.Diagonal())
    optimizer = PSGD(groups, lr=0.05, every=10, clip=None, global_clip=10.0)

    def closure():
        logits = model(x)
        return loss_function(logits, y), logits

    loss, logits = optimizer.step(closure)

Replicas under `DistributedDataParallel` keep equal preconditioners. It averages in backward, so where the
optimiser differentiates instead, it needs the process group to average over::

    optimizer = PSGD(model.parameters(), process_group=torch.distributed.group.WORLD)
"""

try:
    import torch as _torch  # noqa: F401
except ImportError as error:
    raise ImportError("PyTorch is not installed; pip install torch") from error

from .functions import functions
from .modules import Affine, blocks_of, groups_of
from .optimizer import PSGD

__all__ = ["PSGD", "Affine", "blocks_of", "functions", "groups_of"]
