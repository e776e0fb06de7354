"""Every optimiser by name: where it comes from, and what it starts with."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .steps import Steps, library

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Method:
    """What is known of an optimiser without importing it.

    Parameters
    ----------
    name : str
    package : str
        The distribution that it comes from.
    kind : str
        The class there; "" for those that are put together here.
    text : str
        What it is, in a few words.
    settings : dict
        In which it departs from the defaults of its library.
    """

    name: str
    package: str
    kind: str
    text: str
    settings: Mapping[str, Any] = field(default_factory=dict)


_TORCH, _MANY, _OWN = "torch", "pytorch_optimizer", "psgd-core"

_IMPORTED = {"torch": "torch.optim", "pytorch_optimizer": "pytorch_optimizer", "asdfghjkl": "asdl"}

_OWN_CLASSES = {
    "kfac": ("kfac", "KFAC"),
    "hessian_free": ("hessian_free", "HessianFree"),
}

METHODS: dict[str, Method] = {
    m.name: m
    for m in (
        Method("sgd", _TORCH, "SGD", "stochastic gradient descent"),
        Method("momentum", _TORCH, "SGD", "SGD with m <- 0.9 m + g", {"momentum": 0.9}),
        Method("adam", _TORCH, "Adam", "Adam"),
        Method("adamw", _TORCH, "AdamW", "Adam with decoupled weight decay"),
        Method("lbfgs", _TORCH, "LBFGS", "L-BFGS on each batch in turn (stochastic)", {"max_iter": 1}),
        Method("adabelief", _MANY, "AdaBelief", "AdaBelief"),
        Method("adan", _MANY, "Adan", "Adan"),
        Method("adahessian", _MANY, "AdaHessian", "AdaHessian: one Hessian-vector product a step"),
        Method("shampoo", _MANY, "Shampoo", "Shampoo: roots of both factors by SVD in every step"),
        Method(
            "scalable_shampoo",
            _MANY,
            "ScalableShampoo",
            "Shampoo in blocks, grafted; small layers as vectors",
        ),
        Method("soap", _MANY, "SOAP", "Adam in the eigenbasis of Shampoo"),
        Method("muon", _MANY, "Muon", "Muon for hidden matrices, AdamW for the others"),
        Method("adabound", _MANY, "AdaBound", "AdaBound"),
        Method("radam", _MANY, "RAdam", "RAdam"),
        Method("yogi", _MANY, "Yogi", "Yogi"),
        Method("padam", _MANY, "PAdam", "Padam"),
        Method("apollo", _MANY, "ApolloDQN", "Apollo: a diagonal quasi-Newton method"),
        Method("kfac", "asdfghjkl", "", "KFAC: Kronecker products of the Fisher matrix's factors, damped"),
        Method("hessian_free", _TORCH, "", "Hessian-free: CG on Gauss-Newton products, damped as by LM"),
        Method(
            "psgd_lowrank",
            _OWN,
            "",
            "PSGD, Q = (I + U V^T) diag(d), or with d on the left; rank 0 is diagonal",
        ),
        Method("psgd_xmat", _OWN, "", "PSGD, Q of a diagonal and an anti-diagonal"),
        Method("psgd_diagonal", _OWN, "", "PSGD, Q diagonal"),
        Method("psgd_dense", _OWN, "", "PSGD, Q dense, for few parameters"),
        Method("psgd_kron", _OWN, "", "PSGD, Q a Kronecker product for each matrix, diagonal for vectors"),
        Method(
            "psgd_affine", _OWN, "", "PSGD, Q a Kronecker product for each layer's [W b]; kernels as matrices"
        ),
    )
}

NAMES: tuple[str, ...] = tuple(METHODS)


def about(name: str) -> Method:
    """Return what is known of an optimiser without importing it.

    Raises
    ------
    ValueError
        If there is none of this name.
    """
    base = name.removesuffix("_whitening") if name.startswith("psgd_") else name
    if base not in METHODS:
        raise ValueError(f"`name` must be one of {', '.join(NAMES)}, got {name!r}")
    return METHODS[base]


def make(name: str, model: torch.nn.Module, settings: Mapping[str, Any], seed: int) -> Steps:
    """Return an optimiser for all parameters of a module that require a gradient.

    Parameters
    ----------
    name : str
        One of `NAMES`; those of PSGD also with "_whitening" at the end, which stands for the setting
        ``source="whitening"``.
    model : torch.nn.Module
        On its device.
    settings : dict
        The keyword arguments of the class there, in JSON's types.
    seed : int
        Of what it draws.

    Raises
    ------
    ValueError
        For a name or settings that are not known.
    Missing
        If its library is not installed.
    """
    method = about(name)
    library(name, "torch", "torch")
    if name.endswith("_whitening"):
        settings = {"source": "whitening", **settings}
    if method.kind:
        return _from_class(method, model, settings, seed)
    if method.package in _IMPORTED:
        library(name, _IMPORTED[method.package], method.package)
    home, kind = _OWN_CLASSES.get(method.name, ("psgd", "Preconditioned"))
    module = importlib.import_module(f".{home}", __package__)
    known = module.defaults(method.name)
    _require_known(name, settings, list(known))
    steps: Steps = getattr(module, kind)(name, model, {**known, **settings}, seed)
    return steps


def _from_class(method: Method, model: torch.nn.Module, settings: Mapping[str, Any], seed: int) -> Steps:
    """Return an optimiser of a library at work."""
    from . import torch_based

    home = library(method.name, _IMPORTED[method.package], method.package)
    kind = getattr(home, method.kind)
    _require_known(method.name, settings, torch_based.arguments(kind))
    classes: dict[str, type[torch_based.FromClass]] = {
        "lbfgs": torch_based.LineSearching,
        "adahessian": torch_based.DoubleBackward,
        "muon": torch_based.Orthogonalising,
        "scalable_shampoo": torch_based.Blockwise,
    }
    chosen = classes.get(method.name, torch_based.FromClass)
    return chosen(method.name, method.package, kind, model, {**method.settings, **settings}, seed)


def _require_known(name: str, settings: Mapping[str, Any], known: Sequence[str]) -> None:
    wrong = [key for key in settings if key not in known]
    if wrong:
        raise ValueError(f"`settings` of {name!r} must be among {', '.join(known)}, got {wrong[0]!r}")
