"""The optimiser: parameter groups, closures and checkpoints around `psgd_core.PSGD.update`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ... import descent
from ...curvature import ByPlace, Gaussian, Probes, Source, Whitening
from ...descent import clips
from ...preconditioners import Preconditioner, Replay
from ...schedules import Schedule
from . import pairs, saved
from .engines import EngineName
from .flat import Flat, Flats, Vectors, once
from .flattened import flat_of
from .groups import Mover, has_parameters, require_settings, settle, settled
from .names import naming
from .shared import SHARED, Curvature, Shared, Way, seed_of, source_of
from .silence import tell
from .undo import Snapshot, all_or_nothing


class PSGD(torch.optim.Optimizer):
    """Curvature-informed SGD: ``x <- x - lr P m``, eq. (1), P fitted to pairs (v, h = H v) along the way.

    Each parameter group has one preconditioner, over all its parameters as one vector, and its own settings;
    a probe v spans all groups, so h of a group sees the others as noise. To precondition layer by layer, make
    a group of each.

    Parameters
    ----------
    params : iterable of tensors, (name, tensor) pairs, or dicts
        As for every `torch.optim.Optimizer`. Real and dense; each group on one device. Those of 16 bits have
        a float32 state, with a float32 copy in which small steps add up; float64 stays float64. The state of
        `DTensor`, sharded over one axis of a mesh, is sharded as they are.
    preconditioner : Preconditioner, its class or name, per group
        The group that P is fitted on; by default `LowRank(10)`, or the largest rank that fits. `Blocks` are
        put in the order of the parameters. "kronecker" is `Kronecker` for matrices, `Diagonal` for vectors.
    lr : float or tensor, per group
        mu of eq. (1), which `torch.optim.lr_scheduler` may change. With Hessian-vector products 1 is Newton's
        step, and 0.1 the default; with whitening P m has elements of about 1, and 0.01 is the default.
    step : float or schedule, per group
        Step size of the fitting, in (0, 1): a number or one of `psgd_core.schedules`.
    scale : float, optional, per group
        Q starts as this multiple of the identity; set by the group's first pair by default.
    momentum, weight_decay, decay, replay, maximize : per group
        As in `psgd_core.PSGD`; a ring of pairs takes ``2 size n`` numbers. `maximize` goes up.
    clip : Clip, tuple of Clips, float or None, per group
        The limit on ``P m``: no step beyond twice their running mean by default, see
        `psgd_core.descent.clips`; a number limits the norm. `TrustRadius` needs a closure.
    global_clip : Clip, tuple of Clips, float or None
        The limit on the ``P m`` of all groups together, after their own: a norm is that of the whole step.
        `TrustRadius` is refused.
    curvature : {"hvp", "forward_over_reverse", "finite_difference", "whitening"} or Source
        Where h comes from: double backward; the gradient differentiated forward, faster for some models (see
        the guide); differences of gradients, with the closure evaluated twice (BatchNorm's averages too); or
        h = g, which makes ``P g`` white. Or one of `Exact`, `Forward`, `Central`, `Whitening`.
    update_probability, every : float or schedule; int
        P is fitted in each `every`-th step, with this probability, and always in the first: the paper takes
        0.1, or every tenth step, which saves the cost of most pairs.
    engine : {"auto", "torch", "numpy", "cupy"}
        The library that computes. NumPy and CuPy work on the memory of PyTorch's gradients, without a copy.
        "auto" takes NumPy on the CPU, PyTorch elsewhere.
    probes : Probes
        How v is drawn; ``Gaussian(k)`` averages k products in one update.
    rng : int, torch.Generator or curvature.ByPlace
        Seed, or generator, of the probes. The same on all replicas of a model, and on all shards.
    process_group : torch.distributed.ProcessGroup, optional
        Over which to average gradients and products that the optimiser evaluates itself:
        `DistributedDataParallel` averages in backward only.
    compile : bool or dict
        Run each update through `torch.compile`; a dict holds its arguments. Engine "torch" only. Keep
        `momentum` and `weight_decay` constant then: only lr and step change without compiling anew.

    Raises
    ------
    TypeError, ValueError
        For invalid settings and parameters.

    Notes
    -----
    - `step` describes how to pass the loss.
    - Parameters whose gradient is None are left alone, and have no part in fitting; the first step that fits
      P warns of them, by name, unless they are frozen. A group's own first step always fits P.
    - A step is done completely or not at all: whatever is raised in it, also the closure's own errors and
      Ctrl-C, leaves the parameters, ``.grad``, the optimiser and PyTorch's generators as they were.
    - Checkpoints (``torch.utils.checkpoint``) with ``use_reentrant=True`` run as with False.
    - A gradient or loss that is not finite moves nothing and is counted in ``skipped`` (`group_state`).
    - `state_dict` holds only tensors, numbers and texts (``weights_only=True`` loads it), with the
      generator's state: a run resumed from it equals an uninterrupted one bit for bit. Every engine loads it.
    """

    def __init__(
        self,
        params: Iterable[Any],
        preconditioner: Preconditioner[Any] | type[Preconditioner[Any]] | str | None = None,
        *,
        lr: float | Tensor | None = None,
        step: Schedule = 0.1,
        scale: float | None = None,
        momentum: float = 0.9,
        clip: clips.Clip | tuple[clips.Clip, ...] | float | None = clips.AdaptiveNorm(),  # noqa: B008
        weight_decay: float = 0.0,
        decay: descent.Decay = "decoupled",
        replay: Replay | None = None,
        maximize: bool = False,
        curvature: Curvature | Source = "hvp",
        update_probability: Schedule = 1.0,
        every: int = 1,
        global_clip: clips.Clip | tuple[clips.Clip, ...] | float | None = None,
        engine: EngineName = "auto",
        probes: Probes = Gaussian(),  # noqa: B008
        rng: int | torch.Generator | ByPlace = 0,
        process_group: Any = None,
        compile: bool | dict[str, Any] = False,
    ) -> None:
        self._given: dict[str, Any] = {name: x for name, x in locals().items() if name in SHARED}
        source = source_of(curvature)
        self._shared = Shared(source, probes, update_probability, every, global_clip, engine, compile)
        self._seed = seed_of(rng)
        self._oracle = pairs.Oracle(source, process_group)
        self._generator: Any = None if isinstance(rng, int) else rng
        self._iteration = 0
        self._movers: dict[int, Mover] = {}
        self._waiting: set[int] = set()  # groups, by index, that wait for their first pair
        self._told: set[int] = set()  # parameters, by id, checked for a gradient in a fitted step
        self._clip: Any = None  # the memory of the global clip; None before the first step
        if lr is None:
            lr = 0.01 if isinstance(source, Whitening) else 0.1
        defaults = {
            **{"lr": lr, "step": step, "scale": scale, "momentum": momentum, "clip": clip, "replay": replay},
            **{"preconditioner": preconditioner, "weight_decay": weight_decay},
            **{"decay": decay, "maximize": maximize},
        }
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a parameter group, whose preconditioner starts in the next step."""
        for name in [name for name in SHARED if name in param_group]:  # ZeRO hands all settings to each group
            if param_group[name] != self._given[name]:
                raise ValueError(f"`{name}` must be given to PSGD, got another in a group; all share it")
            param_group = {key: x for key, x in param_group.items() if key != name}
        require_settings({**self.defaults, **param_group}, self._shared.source)
        if "params" in param_group:
            param_group["params"] = once(param_group["params"])
        super().add_param_group(param_group)
        try:
            settle(self.param_groups)
        except (TypeError, ValueError):
            self.param_groups.pop()
            raise
        self._waiting.add(len(self.param_groups) - 1)

    # -- a step ----------------------------------------------------------------------------------------

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None, *, v: Any = None, h: Any = None) -> Any:
        """Do one step.

        Parameters
        ----------
        closure : callable, optional
            Returns the loss, or (loss, more) with anything else of use, *without calling backward*; it is
            differentiated here, and ``.grad`` is left alone. With finite differences and whitening, closures
            that call zero_grad and backward work too. Without a closure the gradients are those in ``.grad``,
            as backward leaves them.
        v, h : list of tensors like the parameters, or tensor of shape (n,) or (n, k); optional
            Your own probes, over all groups in order, and their products, to fit P on in this step; `due`
            says when that is worth its cost, `probe` draws a v::

                grads = torch.autograd.grad(loss, params, create_graph=True)
                v = optimizer.probe()
                h = torch.autograd.grad(grads, params, v)
                for p, g in zip(params, grads):
                    p.grad = g.detach()
                optimizer.step(v=v, h=h)

        Returns
        -------
        tensor, tuple or None
            What the closure returned: the loss detached, more as it was (at the point stepped from).

        Raises
        ------
        TypeError, ValueError
            If the loss is not a scalar, has no graph or was differentiated already; for sparse gradients; for
            `v`, `h` of other shapes, and pairs that need a closure.
        RuntimeError
            If an operation cannot be differentiated twice.
        """
        if closure is not None and not callable(closure):
            raise TypeError(f"`closure` must be a function returning the loss, got {type(closure).__name__}")
        if h is not None and v is None:
            raise ValueError("`v` must be given with `h`, got None; they are a pair")
        indices = [i for i, g in enumerate(self.param_groups) if has_parameters(g)]
        with naming(self.param_groups):
            flats = Flats(flat_of(self.param_groups[i]["params"]) for i in indices)
            x = [flat.vector() for flat in flats]
            before = None if closure is None else Snapshot(flats.params)
            with all_or_nothing(self, _STEPPED, flats, x, before):
                return self._step(closure, v, h, indices, flats, x, before)

    def _step(
        self, closure: Any, v: Any, h: Any, indices: list[int], flats: Flats, x: Vectors, before: Any
    ) -> Any:
        """Do one step with the groups that have parameters: compute everything, then change everything."""
        groups, fit = [self.param_groups[i] for i in indices], v is not None or self.due()
        # states, for new groups before anything is evaluated: their preconditioner may not fit
        movers = [self._mover(group, flat) for group, flat in zip(groups, flats, strict=True)]
        held: dict[int, dict[str, Any]] = {}
        for i, mover, flat in zip(indices, movers, flats, strict=True):
            if flat.params[0] in self.state:
                held[i] = self.state[flat.params[0]]
            elif fit and i in self._waiting:
                held[i] = mover.start(flat)
        # gradient and pair
        probes = None
        if fit:
            probes = self._draw(flats) if v is None else pairs.user_vectors("v", v, flats)
        products = None if h is None else pairs.user_vectors("h", h, flats)
        found, g, vs, hs = self._oracle.ask(closure, flats, x, before, probes, products)
        told = tell(groups, found.grads, self._told) if fit else self._told
        # where each group goes
        used = flats.split([grad is not None for grad in found.grads])
        ways, waiting = [], set() if fit else set(self._waiting)
        for k, (i, group, flat, mover) in enumerate(zip(indices, groups, flats, movers, strict=True)):
            if any(used[k]) and i not in held and not fit:
                waiting.add(i)  # its first step must fit P: that is the next one
            elif any(used[k]):
                pair = (None if vs is None else vs[k], None if hs is None else hs[k])
                value = self._oracle.value(found.loss, flat) if mover.loop.needs_value else None
                own = held[i] if i in held else mover.start(flat)
                given = mover.arguments(group, own, flat, x[k], g[k], pair, value, self._iteration)
                ways.append(Way(mover, flat, used[k], given))
        moves, clip = self._shared.moves(self._clip, flats, ways)
        # all changes
        for way, (moved, new_held) in zip(ways, moves, strict=True):
            way.flat.write(moved, way.used)
            self.state[way.flat.params[0]] = new_held
        self._iteration, self._waiting, self._told, self._clip = self._iteration + 1, waiting, told, clip
        return found.returned

    def due(self) -> bool:
        """Return whether the next step fits P; asking changes nothing."""
        groups = enumerate(self.param_groups)
        waiting = [p for i, group in groups if i in self._waiting for p in group["params"]]
        if any(p.requires_grad or p.grad is not None for p in waiting):
            return True
        return self._shared.due(self._iteration, self._seed)

    def probe(self) -> list[Tensor]:
        """Return a probe v as a list of tensors like the parameters, from the optimiser's generator."""
        if self._shared.probes.k != 1:
            raise ValueError(
                f"`probes` must have k = 1 to be handed out, got {self._shared.probes!r}; draw yours"
            )
        flats = Flats(flat_of(group["params"]) for group in self.param_groups)
        return flats.columns(self._draw(flats))[0]

    def group_state(self, index: int = 0) -> descent.PSGDState | None:
        """Return the state of a group's loop, for its preconditioner's verbs; None before the first step.

        ``group["preconditioner"].matrix(optimizer.group_state().preconditioner)`` is P. Arrays are those of
        the engine.
        """
        held = self.state.get(self.param_groups[index]["params"][0], {})
        state: descent.PSGDState | None = held.get("loop")
        return state

    # -- checkpoints -----------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return all that a run needs to be resumed, as tensors (`DTensor` for shards), numbers and texts."""
        flats = Flats(flat_of(group["params"]) for group in self.param_groups if has_parameters(group))
        generator, clip = self._generator, self._clip
        if flats.are_sharded:  # complete from the start: a checkpoint is loaded into what is there
            generator = pairs.generator_for(flats, generator, self._seed)
            clip = self._shared.clip_memory(flats) if clip is None else clip
        own = {
            **{"version": saved.VERSION, "iteration": self._iteration, "seed": self._seed},
            "waiting": sorted(self._waiting),
            "generator": saved.generator_state(generator),
            "global_clip": saved.clip_state(self._shared.global_clip, clip),
        }
        return saved.packed_state(super().state_dict(), self.param_groups, self.state, self._mover, own)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` returned, for parameters of the same shapes and dtypes.

        Numbers among the settings are loaded too; preconditioners, clips and schedules must equal the saved.

        Raises
        ------
        ValueError
            If something does not fit; nothing is changed then.
        """
        own = saved.require_own(state_dict)
        here, shared = self.param_groups, self._shared
        make_mover = partial(Mover, source=shared.source, engine=shared.engine, options=None)
        groups, states = saved.restored_states(state_dict, here, make_mover)
        waiting = [i for i, g in enumerate(here) if g["params"] and g["params"][0] not in states]
        generator = saved.resumed_generator(own["generator"], self._generator)
        clip = saved.resumed_clip(own.get("global_clip"), shared, here)
        super().load_state_dict({"state": {}, "param_groups": groups})
        self.state.update(states)
        self._iteration, self._seed = own["iteration"], own["seed"]
        if generator is not None and saved.are_alike(generator, self._generator):
            self._generator.set_state(generator.get_state())  # the user may hold it
        else:
            self._generator = generator
        self._waiting, self._clip = set(own.get("waiting", waiting)), clip
        self._movers = {}

    def __getstate__(self) -> dict[str, Any]:
        own = {key: value for key, value in self.__dict__.items() if key in _OWN}
        return super().__getstate__() | own | {"_generator": saved.generator_state(self._generator)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._movers = {}
        self.__dict__.setdefault("_told", set())
        self.param_groups = [{"maximize": False} | group for group in self.param_groups]
        if isinstance(state.get("_generator"), dict):
            self._generator = saved.generator_at(state["_generator"])

    # -- its parts -------------------------------------------------------------------------------------

    def _mover(self, group: dict[str, Any], flat: Flat) -> Mover:
        mover = self._movers.get(id(group))
        if mover is None or not mover.fits(group, flat):
            group["preconditioner"] = settled(group)
            mover = self._movers[id(group)] = Mover(
                group, flat, self._shared.source, self._shared.engine, self._shared.options
            )
        return mover

    def _draw(self, flats: Flats) -> Vectors:
        self._generator = pairs.generator_for(flats, self._generator, self._seed)
        return pairs.draw(self._shared.probes, self._generator, flats)


_STEPPED = ("_iteration", "_waiting", "_told", "_generator", "_clip")
"""What a step replaces, besides the state."""
_OWN = ("_shared", "_given", "_oracle", "_seed", "_iteration", "_waiting", "_clip")
"""What a copy of the optimiser takes along, besides its generator."""
