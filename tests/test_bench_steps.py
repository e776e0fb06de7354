"""`psgd bench --model`: what a step evaluates, whose steps are measured, and what their rows say."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest

from psgd_analysis.bench import figures, models, report, run, steps
from psgd_analysis.bench.contenders import Absent, Setting
from psgd_analysis.bench.libraries import Library
from psgd_analysis.bench.model import GRADIENT, PAIRS, PRODUCT, Model
from psgd_analysis.bench.steps import SGD, Steps
from psgd_analysis.bench.timing import Limits, Rounds, Samples

DOUBLE = Library("numpy", "float64")
QUIET = Limits(repeats=5, warmup=2, least=0.0, budget=1e9, total=1e9)


class Told:
    """A clock that moves only when it is told to."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class Pretended(Model):
    """A model whose evaluations last what they should, by a clock."""

    about, library, n, tensors = "pretended", DOUBLE, 12, False

    def __init__(self, clock, broken=()):
        self.clock, self.broken = clock, broken

    def lasting(self, seconds):
        def step():
            self.clock.now += next(seconds)

        return step

    def gradient(self):
        return self.lasting(itertools.repeat(2.0))

    def product(self):
        return self.lasting(itertools.repeat(5.0))

    def other(self, name, settings, seed):
        if name == "adam":
            raise Absent("not installed (pip install adam)")
        calls = itertools.count()

        def step():
            self.clock.now += 2.5
            if name in self.broken and next(calls) > 20:
                raise RuntimeError(f"{name} broke")

        return step

    def psgd(self, setting, pairs):
        fits = itertools.cycle([True] + [False] * (pairs.every - 1))
        product = pairs.name.startswith("exact")
        more = 2.0 if pairs.name.startswith("differences") else 0.0

        def step():
            fit = next(fits)
            self.clock.now += (5.0 if product and fit else 2.0 + more * fit) + 0.5

        return step


def measured(model, others=steps.NAMES, limits=QUIET):
    made = run.Plan([], limits=limits, threads=2)
    found = Steps([model], [("diagonal", 0)], list(others))
    return found.rows(made, model, made.budget(model.clock, 1))


def test_ratios_and_own_parts_follow_from_the_clock():
    rows = {(row.contender, row.what): row for row in measured(Pretended(Told()))}
    assert rows[GRADIENT, ""].own_part is None
    assert rows[PRODUCT, ""].over_sgd == 2.0
    assert rows[SGD, ""].over_sgd == 1.0
    assert rows[SGD, ""].own_part == pytest.approx(0.25)
    needed = {"exact pairs": 5.0, "whitening": 2.0}
    needed |= {f"{kind}, every 10th step": x for kind, x in (("exact pairs", 2.3), ("whitening", 2.0))}
    needed["differences, every 10th step"] = 2.2
    assert set(needed) == {pairs.name for pairs in PAIRS}
    for name, seconds in needed.items():
        row = rows["Diagonal", name]
        assert row.own
        assert row.own_part == pytest.approx(0.5 / seconds)
        assert row.samples.median == pytest.approx(seconds + 0.5)
        assert row.over_sgd == pytest.approx((seconds + 0.5) / 2.5)


def test_what_is_not_installed_or_fails_is_a_row_and_the_others_are_measured():
    rows = {(row.contender, row.what): row for row in measured(Pretended(Told(), broken=["adamw"]))}
    assert (rows["Adam", ""].status, rows["Adam", ""].reason) == (
        "absent",
        "Adam: not installed (pip install adam)",
    )
    assert (rows["AdamW", ""].status, rows["AdamW", ""].reason) == ("failed", "AdamW: adamw broke")
    assert {row.status for row in rows.values() if row.contender not in ("Adam", "AdamW")} == {"ok"}
    assert len(rows) == 2 + len(steps.OTHERS) + len(PAIRS)
    for row in rows.values():
        assert len(report.step_cells(row)) == len(report.STEP_HEADS)


def test_steps_that_find_no_time_say_so():
    class Slow(Pretended):
        def product(self):
            return self.lasting(itertools.repeat(1e6))

    limits = Limits(repeats=5, warmup=1, least=0.0, total=1e6)
    rows = measured(Slow(Told()), limits=limits)
    assert {row.status for row in rows} == {"no time"}
    assert all("--total" in report.step_cells(row)[-1] for row in rows)


def test_only_those_asked_for_are_measured_beside_sgd():
    rows = measured(Pretended(Told()), others=["kfac"])
    assert [row.contender for row in rows[:5]] == [GRADIENT, PRODUCT, SGD, "KFAC", "KFAC"]
    assert all(row.own for row in rows[5:])


def test_one_thread_is_judged_by_the_processor_s_seconds(monkeypatch):
    """The other process that slows every other round down does not show in the ratios."""
    clock, taken = Told(), {}

    def rounds(tasks, copy, limits, clock, until, by_cpu):
        taken["by_cpu"] = by_cpu
        wall = {t.name: Samples((1.0, 9.0, 2.0, 8.0, 3.0)) for t in tasks}
        used = {t.name: Samples((2.0,) * 5 if t.name == SGD else (3.0,) * 5) for t in tasks}
        even = Samples((1.0,) * 6)
        return Rounds(wall, even, Rounds(used, even))

    monkeypatch.setattr(steps, "measure", rounds)
    model = Pretended(clock)
    for threads, ratio, status in ((1, 1.5, "ok"), (2, None, "too noisy")):
        made = run.Plan([], limits=QUIET, threads=threads)
        rows = Steps([model], [("diagonal", 0)], []).rows(made, model, made.budget(clock, 1))
        assert taken["by_cpu"] is (threads == 1)
        assert rows[-1].status == status
        assert ratio is None or rows[-1].over_sgd == ratio


# -- the models --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pairs", PAIRS, ids=lambda pairs: pairs.name)
def test_steps_evaluate_what_they_are_said_to_need(pairs):
    model = models.logistic(DOUBLE, batch=32, seed=0)
    assert "32 rows" in model.about
    asked = {"gradient": 0, "hvp": 0}

    def counted(name):
        call = getattr(model.functions, name)

        def counting(*arguments):
            asked[name] += 1
            return call(*arguments)

        return counting

    model.functions = dataclasses.replace(model.functions, **{name: counted(name) for name in asked})
    step = model.psgd(Setting("xmat", model.n, DOUBLE), pairs)
    for _ in range(30):
        step()
    products = pairs.needs.get(PRODUCT, 0)  # each with a gradient
    assert asked["hvp"] == round(30 * products)
    assert asked["gradient"] == round(30 * (pairs.needs.get(GRADIENT, 0) + products))


def test_lenet5_s_product_is_that_of_its_gradient():
    torch = pytest.importorskip("torch")
    model = models.lenet5(Library("torch", "float64"), batch=4, seed=0)
    assert (model.n, "batch 4" in model.about) == (44_426, True)
    grads, products = model.product()()
    again = model.gradient()()
    for a, b in zip(grads, again, strict=True):
        torch.testing.assert_close(a, b)
    # against differences of gradients along the same v
    _, params, loss = model._fresh()
    generator = torch.Generator().manual_seed(0)
    v = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in params]
    t = 1e-6
    found = []
    for sign in (1, -1):
        with torch.no_grad():
            for p, x in zip(params, v, strict=True):
                p.add_(sign * t * x)
        found.append(torch.autograd.grad(loss(), params))
        with torch.no_grad():
            for p, x in zip(params, v, strict=True):
                p.sub_(sign * t * x)
    for ahead, behind, h in zip(*found, products, strict=True):
        error = torch.linalg.vector_norm((ahead - behind) / (2 * t) - h)
        assert float(error) < 1e-4 * max(float(torch.linalg.vector_norm(h)), 1e-3)
    with pytest.raises(Absent, match="--backend torch"):
        models.lenet5(DOUBLE, None, 0)


@pytest.mark.parametrize("other", steps.OTHERS, ids=lambda one: f"{one.name} {one.what}")
def test_other_optimisers_take_steps_of_lenet5(other):
    pytest.importorskip("torch")
    model = models.lenet5(Library("torch", "float32"), batch=4, seed=0)
    pytest.importorskip({"kfac": "asdl", "shampoo": "pytorch_optimizer"}.get(other.name, "torch"))
    step = model.other(other.name, other.settings, 0)
    for _ in range(10):  # every kind of step
        value, _ = step()
    assert np.isfinite(float(value))


def test_an_optimiser_that_is_not_installed_says_what_to_install(monkeypatch):
    pytest.importorskip("torch")
    from psgd_analysis.reproduce import optimizers
    from psgd_analysis.reproduce.optimizers import methods

    def missing(name, module, package):
        raise optimizers.Missing(name, package, "pip install it")

    monkeypatch.setattr(methods, "library", missing)
    model = models.logistic(Library("torch", "float32"), batch=8, seed=0)
    with pytest.raises(Absent, match=r"^not installed \(pip install torch\)$"):
        model.other("adam", {}, 0)


@pytest.mark.parametrize("kind", ["diagonal", "xmat", "lowrank", "kronecker"])
def test_psgd_takes_steps_of_modules(kind):
    pytest.importorskip("torch")
    library = Library("torch", "float32")
    model = models.logistic(library, batch=8, seed=0)
    for pairs in PAIRS[::3]:
        step = model.psgd(Setting(kind, model.n, library, 2 if kind == "lowrank" else 0), pairs)
        for _ in range(2):
            step()


def test_the_figure_has_a_bar_for_each_step(tmp_path):
    rows = measured(Pretended(Told()))
    figure = figures.draw([], rows)
    axes = [ax for part in figure.subfigs for ax in part.axes]
    assert sum(len(ax.patches) for ax in axes) == sum(row.status == "ok" for row in rows)
    figure.savefig(tmp_path / "steps.png")
