from __future__ import annotations

import json

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from psgd_analysis import problems
from psgd_analysis.documents import as_json
from psgd_analysis.minimize import command, contenders, counting, ratios, report, run


@pytest.fixture
def app():
    made = typer.Typer()
    made.command("minimize")(command.minimize)
    made.callback()(lambda: None)
    return made


def call(app, *words):
    return CliRunner().invoke(app, ["minimize", *map(str, words)])


def everybody(n):
    return [contenders.preconditioned(name, n) for name in contenders.usual(n)] + contenders.others()


class Watched(problems.Problem):
    """A quadratic that counts for itself how often it is asked for what."""

    def __init__(self, minimum=None, limit=10**9):
        super().__init__(name="watched", start=np.ones(3), minimum=minimum)
        self.__dict__["asked"] = {"f": 0, "g": 0, "h": 0}
        self.__dict__["limit"] = limit
        self.__dict__["diagonal"] = np.asarray([1.0, 3.0, 10.0])

    def _value(self, x, sample):
        self.asked["f"] += 1
        if self.asked["f"] > self.limit:
            raise KeyboardInterrupt
        return 0.5 * np.sum(self.diagonal * x * x)

    def _gradient(self, x, sample):
        self.asked["g"] += 1
        return self.diagonal * x

    def _hvp(self, x, v, sample):
        self.asked["h"] += v.shape[1]
        return self.diagonal[:, None] * v


# -- counting --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["dense", "lowrank", "bfgs", "l-bfgs-b", "newton-cg"])
def test_the_counter_agrees_with_the_problem_and_its_trace_is_monotone(name):
    problem = Watched()
    contender = {c.name: c for c in everybody(3)}[name]
    counter = counting.Counter(problem)
    end = contender.run(counter, contenders.Limits(-np.inf, 15), 0)
    assert (counter.nfev, counter.njev, counter.nhev) == tuple(problem.asked.values())
    assert 0 < end.nit <= 15
    for column in ("gradient_equivalents", "nfev", "njev", "nhev", "seconds"):
        assert np.all(np.diff(counter.trace[column]) >= 0)
    assert np.all(np.diff(counter.trace["fun"]) <= 0)


def test_the_counter_agrees_with_what_scipy_and_psgd_report():
    from scipy.optimize import minimize

    import psgd_core as psgd

    problem = problems.get("rosenbrock")
    for solve in (
        lambda c: minimize(c.value, problem.start, jac=c.gradient, hessp=c.hvp, method="Newton-CG"),
        lambda c: minimize(c.value, problem.start, jac=c.gradient, method="BFGS"),
        lambda c: psgd.minimize(c.value, problem.start, grad=c.gradient, hvp=c.hvp, maxiter=7),
    ):
        counter = counting.Counter(problem)
        result = solve(counter)
        assert (counter.nfev, counter.njev, counter.nhev) == (
            result.nfev,
            result.njev,
            getattr(result, "nhev", 0),
        )


def test_gradient_descent_is_what_it_says_and_its_tuning_is_not_counted():
    problem = Watched()
    counter = counting.Counter(problem)
    end = contenders.gradient_descent().run(counter, contenders.Limits(-np.inf, 20), 0)
    assert (end.nit, counter.nfev, counter.njev, counter.nhev) == (40, 40, 40, 0)
    # the grid's rates r / L give the final value in closed form; the best over a quarter of the steps is run
    factors = {r: np.abs(1 - r * problem.diagonal / 10.0) for r in contenders.RATES}
    best = min(factors, key=lambda r: np.sum(problem.diagonal * factors[r] ** 20))
    expected = 0.5 * np.sum(problem.diagonal * factors[best] ** (2 * 39))
    assert end.message.startswith(f"lr = {best:g} / L")
    np.testing.assert_allclose(counter.best, expected, rtol=1e-6)


def test_products_with_k_probes_count_k_times():
    counter = counting.Counter(problems.get("rosenbrock"))
    counter.hvp(np.ones(2), np.eye(2))
    counter.hvp(np.ones(2), np.ones(2))
    assert counter.nhev == counter.equivalents == 3


def test_a_stochastic_problem_keeps_its_sample_at_a_point():
    problem = problems.get("digits", batch=16)
    counter = counting.Counter(problem, np.random.default_rng(0))
    x = np.asarray(problem.start)
    first, again = counter.gradient(x), counter.gradient(x)
    np.testing.assert_array_equal(first, again)
    counter.gradient(x + 0.01)
    assert not np.array_equal(first, counter.gradient(x))  # x was left: a new sample
    assert counter.trace["fun"][0] == float(problem.value(problem.start))


def test_reaching_and_thinning():
    f = np.minimum.accumulate(np.random.default_rng(0).random(3000) / np.arange(1, 3001))
    trace = {name: list(range(3000)) for name in counting.COLUMNS} | {"fun": list(f)}
    assert counting.reached(trace, f[-1]) == int(np.argmax(f <= f[-1]))
    assert counting.reached(trace, -1.0) is None
    short = counting.thinned(trace, most=5)
    assert len(short["fun"]) <= 6
    assert short["fun"][0] == f[0]
    assert short["fun"][-1] == f[-1]


# -- studies ---------------------------------------------------------------------------------------------


def test_all_reach_the_minimum_of_an_easy_function_and_stop_there():
    study = run.run_study(Watched(minimum=0.0), everybody(3), seeds=[0, 1], tol=1e-8, maxiter=200)
    assert [line.contender.name for line in study.lines] == [
        "dense", "xmat", "lowrank", "diagonal", "bfgs", "l-bfgs-b", "newton-cg", "gradient-descent",
    ]  # fmt: skip
    for line in study.lines:
        assert len(line.outcomes) == (2 if line.contender.seeded else 1)
        for outcome in line.outcomes:
            assert outcome.status == "reached", line.contender.label
            assert outcome.counter.best <= 1e-8
            spent = counting.reached(outcome.counter.trace, 1e-8)
            assert outcome.counter.equivalents - spent <= 2  # stopped then


def test_an_interrupt_keeps_what_there_was():
    problem = Watched(minimum=0.0, limit=60)
    study = run.run_study(problem, everybody(3), seeds=[0, 1], tol=0.0, maxiter=30)
    assert study.interrupted
    last = study.lines[-1].outcomes[-1]
    assert last.status == "interrupted"
    assert last.counter.trace["fun"]
    assert len(study.lines) < 8
    content = report.document(study, command=["psgd"], seeds=[0, 1], options={}, newton=None)
    assert json.loads(as_json(content))["interrupted"] is True
    report.table(study)


def test_float32_stays_float32():
    problem = problems.get("rosenbrock", like=np.zeros(1, dtype="float32"))
    counter = counting.Counter(problem)
    assert counter.gradient(np.ones(2)).dtype == np.float32
    assert run.usual_tol(problem) == 1e-10


# -- ratios ----------------------------------------------------------------------------------------------


def test_with_p_fitted_errors_square():
    newton = ratios.fitted_newton_ratios(problems.get("rosenbrock"), distance=0.05)
    assert newton.errors[-1] < 1e-12
    assert len(newton.errors) <= 6
    assert max(newton.ratios[1:]) < 20
    assert max(newton.defects) < 1e-6
    # Newton's own steps from the same point, by numpy
    problem = problems.get("rosenbrock")
    x = 1 + 0.05 * (v := np.random.default_rng(0).standard_normal(2)) / np.linalg.norm(v)
    for error in newton.errors[:3]:
        np.testing.assert_allclose(np.linalg.norm(x - 1), error, rtol=1e-4)
        x = x - np.linalg.solve(problem.hessian(x), problem.gradient(x))


def test_ratios_leave_out_steps_that_were_taken_back():
    assert ratios.last_ratios([8.0, 4.0, 4.0, 1.0, 0.0]) == [0.5, 0.25]
    assert ratios.last_ratios([9.0, 5.0, 2.0], minimum=1.0, count=1) == [0.25]


def test_problems_without_a_solution_have_no_fitted_ratios():
    with pytest.raises(ValueError, match="known solution"):
        ratios.fitted_newton_ratios(problems.get("digits"))


# -- the command -----------------------------------------------------------------------------------------

KEYS = {
    "schema", "command", "versions", "problem", "seeds", "tol", "maxiter", "unit", "reference",
    "lbfgsb_default_stop", "interrupted", "contenders",
}  # fmt: skip


def strict(text):
    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    return json.loads(text, parse_constant=refuse)


def test_it_writes_both_files(app, tmp_path):
    result = call(app, "rosenbrock", "--seeds", 2, "--maxiter", 40, "--out", tmp_path / "new", "-p", "dense")
    assert result.exit_code == 0, result.output
    assert "PSGD, Dense" in result.output
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["minimize.json", "minimize.png"]
    content = strict((tmp_path / "new" / "minimize.json").read_text())
    assert set(content) == KEYS
    assert content["problem"] == {
        "name": "rosenbrock", "n": 2, "options": {}, "stochastic": False, "dtype": "float64",
    }  # fmt: skip
    assert content["contenders"][0]["name"] == "dense"
    first = content["contenders"][0]["runs"]
    assert [r["seed"] for r in first] == content["seeds"] == [0, 1]
    assert all(r["gradient_equivalents"] == r["njev"] + r["nhev"] for r in first)
    assert {"numpy", "scipy", "python", "psgd-core"} <= set(content["versions"])
    assert (tmp_path / "new" / "minimize.png").read_bytes().startswith(b"\x89PNG")


def test_ratios_and_json_on_the_terminal(app, tmp_path):
    words = ("rosenbrock", "--seeds", 1, "--maxiter", 10, "-p", "dense", "--ratios", "--out", tmp_path)
    printed = call(app, *words)
    assert "order 2" in printed.output
    content = strict(call(app, *words, "--json").stdout)
    assert content["fitted_newton"]["errors"][-1] < 1e-12
    assert call(app, *words, "--quiet").output == ""


def test_options_and_size_reach_a_stochastic_problem(app, tmp_path):
    result = call(
        app, "digits", "-o", "batch=64", "-o", "l2=0.1", "-p", "xmat", "--seeds", 2, "--maxiter", 8,
        "--dtype", "float32", "--out", tmp_path, "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    content = strict(result.stdout)
    assert content["problem"]["stochastic"]
    assert content["problem"]["dtype"] == "float32"
    assert content["problem"]["options"] == {"batch": "64", "l2": "0.1"}
    assert content["reference"]["kind"] == "lowest value found"
    assert all(len(c["runs"]) == 2 for c in content["contenders"])
    sized = call(
        app, "rosenbrock", "--n", 4, "-p", "diagonal", "--seeds", 1, "--maxiter", 3, "--out", tmp_path
    )
    assert "n = 4" in sized.output


def test_ctrl_c_writes_what_there_is(app, tmp_path, monkeypatch):
    monkeypatch.setattr(problems, "get", lambda name, **options: Watched(minimum=0.0, limit=60))
    result = call(app, "rosenbrock", "--tol", 0, "--maxiter", 30, "--out", tmp_path)
    assert result.exit_code == 130
    assert "Interrupted" in result.output
    assert strict((tmp_path / "minimize.json").read_text())["interrupted"] is True
    assert (tmp_path / "minimize.png").exists()


def test_list(app):
    result = call(app, "--list")
    assert result.exit_code == 0
    assert all(name in result.output for name in problems.names())
    assert "l2=0.001" in result.output


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "PROBLEM"),
        (("nowhere",), "`PROBLEM` must be one that --list shows, got 'nowhere'"),
        (("rosenbrok",), "did you mean 'rosenbrock'?"),
        (("rosenbrock", "--n", 1), "n"),
        (("hilbert", "-o", "m=3"), "no option `m`"),
        (("rosenbrock", "-o", "n"), "key=value"),
        (("rosenbrock", "-o", "n=1 +"), "n"),
        (("rosenbrock", "--n", 3, "-p", "butterfly"), "even n"),
        (("rosenbrock", "--seeds", 0), "--seeds"),
        (("rosenbrock", "--maxiter", 0), "--maxiter"),
        (("rosenbrock", "--tol", "nan"), "--tol"),
    ],
)
def test_bad_usage_is_one_line_and_exit_status_2(app, tmp_path, words, says):
    result = call(app, *words, "--out", tmp_path)
    assert result.exit_code == 2
    assert result.stderr.startswith("psgd minimize: ")
    assert says in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())
