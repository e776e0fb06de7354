"""The documentation site: its code runs, what it names exists, and nothing public is missing from it.

The pages as built are checked where PSGD_DOCS_HTML says where they are, as ``make docs`` does.
"""

from __future__ import annotations

import ast
import html
import importlib
import importlib.util
import inspect
import os
import pkgutil
import re
import shlex
import sys
import textwrap
import tomllib
from html.parser import HTMLParser
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote, urlsplit

import pytest
from pages import blocks, run
from test_public_api import names

import psgd_core

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(p for p in DOCS.rglob("*.md") if not {"_build", "gallery"} & set(p.relative_to(DOCS).parts))
PAGES.append(ROOT / "CONTRIBUTING.md")  # a page of the site includes it
pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def extension(name="api_pages"):
    """The part of the site's own extensions that needs no Sphinx."""
    pytest.importorskip("sphinx", reason="sphinx is not installed")
    sys.path.insert(0, str(DOCS / "_ext"))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.pop(0)


# -- code ------------------------------------------------------------------------------------------------


@pages
def test_python_blocks_run(page, monkeypatch, tmp_path):
    pytest.importorskip("matplotlib")
    monkeypatch.setenv("MPLBACKEND", "Agg")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(ROOT / "tests"))
    assert len(run(page)) == len(blocks(page))
    assert not list(tmp_path.iterdir())


FITTED = """
import numpy as np
import psgd_core
rng, n = np.random.default_rng(0), 12
A = np.diag(np.arange(1.0, 13.0))
x, v, g = rng.standard_normal((3, n))
h = A @ v
p = psgd_core.XMat()
state = p.update(p.init(n, like=x), v, h, step=0.1)
"""

MINIMISED = """
import functools, scipy
from scipy.optimize import minimize, rosen, rosen_der, rosen_hess_prod
from psgd_core import XMat
f, g, hp, x0 = rosen, rosen_der, rosen_hess_prod, [-1.2, 1.0]
"""

TRAINED = """
import torch
import psgd_core
torch.manual_seed(0)
model, loss_function = torch.nn.Linear(5, 4), torch.nn.functional.mse_loss
x, y = torch.randn(20, 5), torch.randn(20, 4)
batches, params = [(x, y)], list(model.parameters())
x0 = torch.nn.utils.parameters_to_vector(params).detach()
optimizer = psgd_core.adapters.torch.PSGD(params, psgd_core.LowRank(2))
loss = loss_function(model(x), y)
"""

BEFORE = {
    "psgd_core": FITTED,
    "psgd_core.checkpoint": FITTED,
    "psgd_core.kernels": FITTED,
    "psgd_core.curvature": FITTED
    + "functions = Functions(lambda x, z: A @ x + z, hvp=lambda x, v, z: A @ v)\n"
    + "sample, source, probes = 0.1 * v, Exact(), Gaussian()",
    "psgd_core.schedules": "",
    "psgd_core.adapters.scipy": FITTED + MINIMISED + "import scipy.sparse.linalg\nb = x",
    "psgd_core.adapters.scipy.psgd_method": MINIMISED,
    "psgd_core.adapters.torch": TRAINED,
    "psgd_core.adapters.torch.PSGD.step": TRAINED,
    "psgd_core.adapters.torch.blocks_of": TRAINED,
    "psgd_core.adapters.torch.functions": TRAINED,
    "psgd_core.adapters.torch.groups_of": TRAINED,
    "psgd_core.adapters.jax": """
import jax, optax
import psgd_core
def loss(params, batch):
    return ((params - batch) ** 2).sum()
""",
    "psgd_core.adapters.jax.reshard": """
import jax.numpy as jnp
import psgd_core
params = jnp.ones(4)
psgd_core.save("run.npz", psgd(0.1).init(params))
""",
    "psgd_core.adapters.dask": """
import distributed, numpy as np
import psgd_core
from psgd_core.curvature import Functions
client = distributed.Client(processes=False, n_workers=1, threads_per_worker=1, dashboard_address=":0")
def load(i):
    return float(i)
def value(x, part):
    return part * float(x @ x)
def gradient(x, part):
    return 2 * part * x
def hvp(x, v, part):
    return 2 * part * v
x0 = np.ones(3)
""",
    "psgd_core.adapters.dlpack": """
import torch
tensor = torch.ones(3)
""",
    "psgd_analysis.spectrum": """
import numpy as np
import psgd_core as psgd
import torch
torch.manual_seed(0)
rng, x, y = np.random.default_rng(0), torch.randn(20, 3), torch.randn(20, 2)
model, loss = torch.nn.Linear(3, 2), torch.nn.functional.mse_loss
p = psgd.XMat()
state = p.init(8, like=x)
""",
    "psgd_analysis.generalisation.forgetting": """
import numpy as np
from psgd_analysis.generalisation import correct
logits, batches = np.eye(3), [(np.arange(3), None, np.arange(3))]
""",
}
"""What the code in a docstring takes for granted."""


def code_in(docstring: str) -> list[str]:
    """The literal blocks of a docstring: what is indented after a line that ends in two colons."""
    found, lines = [], docstring.splitlines()
    for i, line in enumerate(lines):
        if line.rstrip().endswith("::"):
            margin, block = len(line) - len(line.lstrip()), []
            for after in lines[i + 1 :]:
                if after.strip() and len(after) - len(after.lstrip()) <= margin:
                    break
                block.append(after)
            found.append(textwrap.dedent("\n".join(block)))
    return found


def documented():
    """Every docstring of the reference that holds code, once, by the name it is shown under."""
    found = {}
    listed = re.findall(r"^(psgd_[\w.]+)$", (DOCS / "api" / "index.md").read_text("utf-8"), flags=re.M)
    for name in sorted(listed, key=lambda m: "." not in m):
        module = importlib.import_module(name)
        things = {name: module}
        things |= {f"{name}.{item}": getattr(module, item) for item in names(module)}
        for item, thing in list(things.items()):
            if inspect.isclass(thing):
                things |= {f"{item}.{key}": value for key, value in vars(thing).items() if key[0] != "_"}
        for item, thing in things.items():
            text = inspect.getdoc(thing) or ""
            if code_in(text) and text not in {inspect.getdoc(other) for _, other in found.values()}:
                found[item] = (module, thing)
    return found


def test_code_in_docstrings_runs(monkeypatch, tmp_path):
    """With what it takes for granted before it, in the names of its own module."""
    pytest.importorskip("torch")
    pytest.importorskip("optax")
    monkeypatch.setenv("MPLBACKEND", "Agg")
    monkeypatch.chdir(tmp_path)
    found = documented()
    assert set(found) <= set(BEFORE), "say in BEFORE what the code of a new docstring takes for granted"
    for name, (module, thing) in found.items():
        scope = dict(vars(thing if inspect.ismodule(thing) else module))
        exec(BEFORE[name], scope)
        for block in code_in(inspect.getdoc(thing)):
            exec(compile(block, name, "exec"), scope)


def test_every_block_has_a_language_that_is_checked():
    known = {
        "python",
        "sh",
        "{code-block}",
        "{toctree}",
        "{include}",
        "{architecture}",
        "{command}",
        "{modules}",
    }
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        assert text.count("```") % 2 == 0
        assert set(re.findall(r"^```(\S*)", text, flags=re.M)) <= known | {""}


def commands():
    """The lines of all shell blocks, with their page."""
    found = []
    for page in [*PAGES, ROOT / "README.md"]:
        lines = [line for block in blocks(page, "sh") for line in block.splitlines()]
        found += [(page.name, line.partition("  #")[0].strip()) for line in lines if line.strip()]
    return sorted(set(found))


@pytest.mark.parametrize(("page", "line"), commands(), ids=lambda x: x)
def test_shell_commands_are_there(page, line):
    """Targets of make, extras of pip, subcommands and options of `psgd` exist."""
    program, *arguments = shlex.split(line)
    if program == "make":
        targets = re.findall(r"^([\w-]+):.*##", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.M)
        assert arguments[0] in targets
        assert all(re.match(r"(TESTS|VERIFY|TORCH|PYTHON)=", option) for option in arguments[1:])
    elif program == "pip":
        assert arguments[:2] == ["install", "-e"]
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"][
            "optional-dependencies"
        ]
        assert set(re.findall(r"\w+", arguments[2].partition("[")[2])) <= set(extras)
    elif program == "python":
        assert (ROOT / arguments[0]).exists()
    elif program == "dask":
        pytest.importorskip("distributed")
        command = metadata.entry_points(group="dask_cli")[arguments[0]].load()
        known = {option for parameter in command.params for option in parameter.opts}
        assert {x for x in arguments[1:] if x.startswith("-")} <= known
    else:
        assert program == "psgd"
        pytest.importorskip("typer")
        from psgd_analysis import cli

        command = cli.command(arguments[0])
        known = {option for parameter in command.params for option in parameter.opts}
        assert {x for x in arguments[1:] if x.startswith("-")} <= known


# -- what is named exists ----------------------------------------------------------------------------------


@pages
def test_named_tests_exist(page):
    for file, name in re.findall(r"`(test_\w+\.py)::(\w+)`", page.read_text(encoding="utf-8")):
        tree = ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8"))
        assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}, name


@pages
def test_linked_names_exist(page):
    for target in re.findall(r"\{py:obj\}`(?:[^`<]*<)?(psgd_[\w.]+)>?`", page.read_text(encoding="utf-8")):
        owner, _, name = target.rpartition(".")
        try:
            thing = importlib.import_module(owner)
        except ModuleNotFoundError:
            module, _, name_of_class = owner.rpartition(".")
            thing = getattr(importlib.import_module(module), name_of_class)
        assert hasattr(thing, name) or importlib.util.find_spec(target), target


@pages
def test_relative_links_exist(page):
    text = page.read_text(encoding="utf-8")
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", text)
    targets += [t.rpartition("<")[2].rstrip(">") for t in re.findall(r"\{doc\}`([^`]+)`", text)]
    for target in targets:
        path = page.parent / target
        if "gallery" in path.parts:
            path = ROOT / "examples" / f"{path.name}.py"
            assert path.exists() or path.stem == "index", target
        else:
            assert path.exists() or path.with_name(f"{path.name}.md").exists(), target


# -- nothing is missing ------------------------------------------------------------------------------------


def public(package: str) -> set[str]:
    """The public modules and subpackages right below a package."""
    path = importlib.import_module(package).__path__
    return {f"{package}.{m.name}" for m in pkgutil.iter_modules(path) if not m.name.startswith("_")}


def test_every_public_module_is_listed():
    listed = set(extension().listed(DOCS / "api"))
    shared = {"psgd_core.adapters.producers", "psgd_core.adapters.sources"}  # by adapters
    inside = {"psgd_core.adapters", "psgd_core.arrays"} | shared  # not for users
    core = {"psgd_core", *public("psgd_core"), *public("psgd_core.adapters")} - inside
    assert core <= listed
    # the command's own; what rooms share is in single modules
    own = {"cli", "bench", "efficiency", "minimize", "reproduce", "sweeps", "verify"}
    rooms = {
        m.name for m in pkgutil.iter_modules(importlib.import_module("psgd_analysis").__path__) if m.ispkg
    }
    studies = {f"psgd_analysis.{room}" for room in rooms - own}
    assert studies <= listed


def test_every_public_name_has_one_home():
    api = extension()
    modules = [m for m in api.listed(DOCS / "api") if importlib.util.find_spec(m)]
    homes = api.homes(modules)
    for name in modules:
        module = importlib.import_module(name)
        for item in api.names(module):
            value = getattr(module, item)
            if type(value) is not type(module):
                assert homes[api.defined(value, name, item)].rpartition(".")[0] in modules
    top = {f"{psgd_core.Dense.__module__}.Dense": "psgd_core.preconditioners.Dense"}
    assert top.items() <= homes.items()


def test_every_example_is_offered_as_a_notebook(monkeypatch, tmp_path):
    """Without outputs, as the script has it; its page links it and says what it needs."""
    gallery = extension("example_gallery")
    import jupytext
    import nbformat

    for name, value in {"executed": lambda notebook, *_: notebook, "absent": lambda _: False}.items():
        monkeypatch.setattr(gallery, name, value)
    for folder in ("examples", "psgd_core", "analysis"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    gallery.build(SimpleNamespace(srcdir=tmp_path / "docs"))
    pages = tmp_path / "docs" / "gallery"
    for path in sorted((ROOT / "examples").glob("*.py")):
        notebook = nbformat.read(pages / "files" / f"{path.stem}.ipynb", as_version=4)
        nbformat.validate(notebook)
        assert [(c.cell_type, c.source) for c in notebook.cells] == [
            (c.cell_type, c.source) for c in jupytext.read(path).cells
        ]
        assert not any(c.get("outputs") for c in notebook.cells)
        top = nbformat.read(pages / f"{path.stem}.ipynb", as_version=4).cells[0].source
        assert f"<files/{path.stem}.ipynb>" in top
        assert ("needs torch" in top) == (path.stem in ("06_network_hessian", "09_embedding_torch"))
    text = (pages / "index.md").read_text(encoding="utf-8")
    assert all(f"**{place}**" in text for place in ("Jupyter", "VS Code", "Colab"))


# -- the site as built -------------------------------------------------------------------------------------


class Anchors(HTMLParser):
    """The links and the anchors of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.anchors: set[str] = {""}
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.anchors |= {given[key] for key in ("id", "name") if given.get(key)}
        self.links |= {given[key] for key in ("href", "src") if given.get(key)}


@pytest.fixture(scope="module")
def site():
    """The built pages, by path."""
    if "PSGD_DOCS_HTML" not in os.environ:
        pytest.skip("PSGD_DOCS_HTML does not say where the built site is; `make docs` does")
    folder = Path(os.environ["PSGD_DOCS_HTML"]).resolve()
    found = {p: Anchors(p.read_text(encoding="utf-8")) for p in sorted(folder.rglob("*.html"))}
    assert folder / "index.html" in found
    return folder, found


def test_links_inside_the_site_lead_somewhere(site):
    folder, found = site
    for path, page in found.items():
        for link in page.links:
            parts = urlsplit(html.unescape(link))
            if parts.scheme in ("https", "http", "mailto", "data"):
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            assert target.exists(), f"{path.relative_to(folder)}: {link}"
            if target in found and not parts.fragment.startswith(":~:"):
                assert unquote(parts.fragment) in found[target].anchors, f"{path.name}: {link}"


def test_pages_load_nothing_from_elsewhere(site):
    folder, _ = site
    for path in folder.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        loaded = re.findall(r"<(?:script|img|iframe)[^>]*?src=\"(https?:[^\"]+)", text)
        loaded += re.findall(r"<link[^>]*?rel=\"stylesheet\"[^>]*?href=\"(https?:[^\"]+)", text)
        assert not loaded, f"{path.name}: {loaded}"


def test_every_public_name_is_documented(site):
    folder, found = site
    api = extension()
    modules = [m for m in api.listed(DOCS / "api") if importlib.util.find_spec(m)]
    for definition, home in api.homes(modules).items():
        page = found[folder / "api" / f"{home.rpartition('.')[0]}.html"]
        assert home in page.anchors, f"{definition} is not documented as {home}"


def test_every_example_has_a_page_with_outputs(site):
    folder, found = site
    for path in sorted((ROOT / "examples").glob("*.py")):
        text = (folder / "gallery" / f"{path.stem}.html").read_text(encoding="utf-8")
        assert "cell_output" in text or "without output" in text
        assert f"{path.stem}.ipynb" in text
    assert len(found) > len(list((ROOT / "examples").glob("*.py")))
