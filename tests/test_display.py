"""What notebooks show: tables as HTML, figures by what they draw, and progress."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import scipy.optimize

import psgd_core as psgd
from psgd_core import display
from psgd_core.convergence import Trace

ROOT = Path(__file__).parents[1]


def cells(html):
    """The caption and the rows of a table, as text: it must be well-formed XML."""
    table = ElementTree.fromstring(html)
    assert table.tag == "table"
    caption = "".join(table.find("caption").itertext())
    return caption, [["".join(cell.itertext()) for cell in row] for row in table.iter("tr")]


# -- tables ------------------------------------------------------------------------------------------------


def test_everything_in_a_table_is_escaped():
    nasty = "<b>&\"'"
    assert cells(display.html_table(nasty, (nasty, nasty), [(nasty, nasty)])) == (nasty, [[nasty] * 2] * 2)


@pytest.mark.parametrize(
    "p",
    [
        psgd.Dense(),
        psgd.LowRank(2),
        psgd.Kronecker((3, 2)),
        psgd.Blocks(((2, psgd.Diagonal()), (4, psgd.XMat()))),
    ],
    ids=repr,
)
def test_a_state_is_a_row_for_each_array(p, backend):
    like = backend.asarray(np.zeros(1))
    seen = []

    def look(x):
        state = p.init(6, like=x, scale=2.0)
        seen.append((state, state._repr_html_()))
        return x

    backend.jit(look)(like)
    state, html = seen[0]
    caption, (_, *rows) = cells(html)
    assert caption == type(state).__name__
    named = leaves(state)
    assert [row[0] for row in rows] == list(named)
    for name, array, size in rows:
        x = named[name]
        shape = f"{backend.dtype_name}[{', '.join(map(str, x.shape))}]"
        if x.ndim and "gather" not in name:
            assert array == shape
        if x.ndim and backend.library in ("array_api_compat.numpy", "torch"):
            assert float(size) == pytest.approx(np.linalg.norm(np.asarray(x)), rel=1e-3)
        else:
            assert size == ""


def leaves(state, name=""):
    """The arrays of a state by their names."""
    if not isinstance(state, tuple):
        return {name: state}
    found = {}
    for key, part in zip(getattr(state, "_fields", range(len(state))), state, strict=True):
        found |= leaves(part, f"{name}.{key}" if name else str(key))
    return found


def test_norms_do_not_overflow_and_say_what_is_not_finite():
    state = psgd.Diagonal().init(3, like=np.zeros(1), scale=1.0)
    for values, text in (([3e200, 4e200, 0], "5e+200"), ([np.nan, 1, 1], "nan"), ([np.inf, 1, 1], "inf")):
        block = np.array(values).reshape(1, 1, 3)
        assert f">{text}</td>" in state._replace(q=state.q._replace(blocks=(block,)))._repr_html_()


def test_tensors_without_values_are_shown():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    from torch._subclasses.fake_tensor import FakeTensorMode

    p = psgd.XMat()
    shown = [p.init(4, like=torch.zeros(1, device="meta"), scale=1.0)._repr_html_()]
    with FakeTensorMode():
        shown.append(p.init(4, like=torch.zeros(1), scale=1.0)._repr_html_())
    for html in shown:
        assert ["q.blocks.0", "float32[2, 2, 2]", ""] in cells(html)[1]


def test_a_state_of_many_parts_is_a_short_table():
    p = psgd.Blocks(tuple((1, psgd.Diagonal()) for _ in range(50)))
    _, rows = cells(p.init(50, like=np.zeros(1))._repr_html_())
    assert len(rows) == 42
    assert rows[-1][0] == "... 311 more"  # 7 arrays in each part, and one count


def minimized(**options):
    return psgd.minimize(scipy.optimize.rosen, [-1.2, 1.0], grad=scipy.optimize.rosen_der, **options)


def test_a_result_is_a_table():
    result = minimized()
    caption, (_, *rows) = cells(result._repr_html_())
    shown = {name: (value, size) for name, value, size in rows}
    assert caption == result.message
    assert float(shown["fun"][0]) == pytest.approx(result.fun, rel=1e-7)
    for name in ("nit", "nfev", "njev", "nhev", "status"):
        assert int(shown[name][0]) == result[name]
    assert shown["x"] == ("[1. 1.]", "1.414")
    assert shown["preconditioner"][0] == repr(result.optimizer.preconditioner)
    assert "plot" in dir(result)
    assert set(result) <= set(dir(result))
    assert "history" not in shown


def test_a_result_of_a_tree_has_a_row_for_each_array():
    start = {"<a>": np.ones((2, 3)), "b": np.ones(20)}
    result = psgd.minimize(
        lambda x: float(sum(np.sum(part**2) for part in x.values())),
        start,
        jac=lambda x: {key: 2 * part for key, part in x.items()},
        maxiter=1,
    )
    _, rows = cells(result._repr_html_())
    shown = {row[0]: row[1] for row in rows}
    assert shown["x.<a>"] == "float64[2, 3]"
    assert shown["jac.b"] == "float64[20]"


def test_a_result_that_somebody_took_apart_is_still_shown():
    result = minimized(maxiter=2)
    for name in ("x", "jac", "optimizer", "message", "nhev"):
        del result[name]
    caption, rows = cells(result._repr_html_())
    assert caption == "MinimizeResult"
    assert [row[0] for row in rows[1:]] == ["fun", "nit", "nfev", "njev", "status"]


def traced():
    trace = Trace("a <run>")
    for i, distance in enumerate([4.0, 0.5, 1.0, 0.0]):
        trace.record(10 * i + 10, distance=distance, criterion=7.0 + i)
    return trace


def test_a_trace_is_a_table_of_what_was_measured():
    caption, rows = cells(traced()._repr_html_())
    assert caption == "a <run>: 4 records, updates 10 to 40"
    assert rows == [
        ["", "first", "last", "least"],
        ["distance", "4", "0", "0"],
        ["criterion", "7", "10", "7"],
    ]
    assert cells(Trace()._repr_html_()) == ("Trace: 0 records", [["", "first", "last", "least"]])


# -- figures -----------------------------------------------------------------------------------------------


def drawn(ax):
    return {line.get_label(): (line.get_xdata(), line.get_ydata()) for line in ax.get_lines()}


def test_a_trace_draws_its_errors():
    pytest.importorskip("matplotlib")
    ax = traced().plot()
    (label, (x, y)), *others = drawn(ax).items()
    assert not others  # the criterion is no error
    assert label == "distance"
    np.testing.assert_array_equal(x, [10, 20, 30, 40])
    np.testing.assert_array_equal(y, [4, 0.5, 1, np.nan])  # 0 has no logarithm
    assert ax.get_title() == "a <run>"
    assert traced().plot(ax) is ax
    trace = Trace()
    assert not drawn(trace.plot())
    trace.record(1, criterion=3.0)
    assert list(drawn(trace.plot())) == ["criterion"]


def test_a_result_draws_its_history():
    pytest.importorskip("matplotlib")
    result = minimized()
    h = result.history
    ax = result.plot()
    (fun_label, (x, fun)), (grad_label, (_, grad)) = drawn(ax).items()
    np.testing.assert_array_equal(x, h["nit"])
    above = h["fun"] - h["fun"].min()
    np.testing.assert_array_equal(fun, np.where(above > 0, above, np.nan))
    np.testing.assert_array_equal(grad, h["grad"])
    assert fun_label == f"f - lowest f ({h['fun'].min():.6g})"
    assert grad_label == "max|gradient|"
    assert ax.get_title() == result.message
    assert ax.get_yscale() == "log"


def test_a_result_without_values_draws_the_gradient_alone():
    pytest.importorskip("matplotlib")
    rng = np.random.default_rng(0)
    result = psgd.minimize(
        None,
        np.ones(3),
        grad=lambda x, z: x + 0.01 * z,
        sample=lambda rng: rng.standard_normal(3),
        preset="stochastic",
        maxiter=5,
        rng=rng,
    )
    assert list(drawn(result.plot())) == ["max|gradient|"]


def test_a_result_that_never_was_finite_draws_nothing():
    pytest.importorskip("matplotlib")
    result = psgd.minimize(lambda x: np.nan, np.ones(2), jac=lambda x: x)
    assert result.status == 3
    assert not drawn(result.plot())


@pytest.mark.parametrize("size", [3, 2000, 2001, 100_000])
def test_long_curves_keep_their_ends_and_stay_on_their_values(size):
    pytest.importorskip("matplotlib")
    y = np.linspace(1, 2, size) ** 3
    ax = display.curves(None, {"": (np.arange(size), y)})
    x, shown = drawn(ax)["_child0"]
    np.testing.assert_array_equal(shown, y[x.astype(int)])
    assert np.all(np.diff(x) > 0)
    assert len(x) == min(size, display.MOST_POINTS)
    ends = min(size, display.ENDS)
    np.testing.assert_array_equal(x[:ends], np.arange(ends))
    np.testing.assert_array_equal(x[-ends:], np.arange(size - ends, size))
    assert ax.get_legend() is None


def test_without_matplotlib_one_line_says_what_to_install(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = minimized(maxiter=1)
    with pytest.raises(ModuleNotFoundError, match="pip install matplotlib") as caught:
        result.plot()
    assert "\n" not in str(caught.value)


# -- progress ----------------------------------------------------------------------------------------------

IN_A_NOTEBOOK = """
import scipy.optimize
import psgd_core as psgd
from psgd_analysis.progress import iterations

def seen(message):
    data = message["content"].get("data", {})
    if "text/html" in data:
        shown.append((message["msg_type"], data["text/html"]))
    return message

shown, seconds = [], iter(range(10_000))
get_ipython().display_pub.register_hook(seen)
with iterations(1000, clock=lambda: next(seconds)) as callback:
    result = psgd.minimize(
        scipy.optimize.rosen, [-1.2, 1.0], grad=scipy.optimize.rosen_der, callback=callback, maxiter=1000
    )
print(repr((result.nit, shown)))
"""


def test_a_notebook_shows_a_bar_that_goes_away(monkeypatch):
    for library in ("nbclient", "ipykernel", "rich"):
        pytest.importorskip(library, reason=f"{library} is not installed")
    import ast

    import nbformat
    from nbclient import NotebookClient

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "analysis")]))
    cell = nbformat.v4.new_code_cell(IN_A_NOTEBOOK)
    NotebookClient(nbformat.v4.new_notebook(cells=[cell]), timeout=120, kernel_name="python3").execute()
    (text,) = [out["text"] for out in cell.outputs if out.get("name") == "stdout"]
    nit, shown = ast.literal_eval(text)
    kinds, pages = zip(*shown, strict=True)
    assert kinds == ("display_data", *["update_display_data"] * (nit + 1))
    for i, page in enumerate(pages[1:-1], start=1):
        bar = ElementTree.fromstring(f"<p>{page}</p>").find("progress")
        assert float(bar.get("value")) == pytest.approx(i / 1000, abs=1e-4)
        assert f"iteration {i}, f = " in page
    assert pages[-1] == ""
    assert not [out for out in cell.outputs if out.get("name") == "stderr"]


def test_progress_of_an_iteration_that_is_not_ours(capsys):
    """SciPy's minimisers call back with f alone; off a terminal a line comes now and then."""
    pytest.importorskip("rich")
    from psgd_analysis.progress import iterations

    seconds = iter(range(0, 10**6, 4))
    with iterations(50, clock=lambda: next(seconds)) as callback:
        scipy.optimize.minimize(scipy.optimize.rosen, [-1.2, 1.0], method="BFGS", callback=callback)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("psgd minimize: iteration 3, f = ")
    assert lines[0].endswith("6 %, 3 min left")


def test_tqdm_shows_iterations():
    tqdm = pytest.importorskip("tqdm", reason="tqdm is not installed")
    with tqdm.tqdm(total=1000, file=io.StringIO()) as bar:
        result = minimized(callback=lambda x: bar.update())
    assert bar.n == result.nit


def test_a_script_draws_without_choosing_a_backend():
    pytest.importorskip("matplotlib")
    code = (
        "import numpy as np, psgd_core as psgd, sys\n"
        "p = psgd.XMat(); state = p.init(4, like=np.zeros(1), scale=1.0)\n"
        "ax = p.plot(state)\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
        "print(ax.get_title())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.startswith("Eigenvalues of P, XMat: n = 4")
