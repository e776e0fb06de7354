"""The gallery: every example executed as a notebook, with a card for each.

An executed notebook is kept as long as neither its example nor the package has changed. Where an example
needs a library that is not installed, its page shows the code without output.
"""

from __future__ import annotations

import base64
import copy
import hashlib
import importlib.util
import os
import re
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from sphinx.util import logging

logger = logging.getLogger(__name__)

OPTIONAL = ("dask", "distributed", "jax", "optax", "sklearn", "torch")

PIP = {"sklearn": "scikit-learn"}
"""What pip calls a library, where that differs."""

OPENING = """## Open them

The top of each page offers its example as a notebook and as a script. They need this package with the extra
`analysis` ({doc}`installation <../installation>`), and the libraries that the page names.

- **Jupyter**: `pip install jupyterlab` into the same environment, then `jupyter lab 02_rosenbrock.ipynb`.
- **VS Code**, with its extensions Python and Jupyter: open the notebook and select that environment as its
  kernel. The script works too: every `# %%` begins a cell.
- **Colab**: in a clone, `pip wheel . --no-deps` makes a file that ends in `.whl`. Upload the notebook (File,
  Upload notebook) and that file (Files, at the left), and run in a first cell
  `%pip install "NAME.whl[analysis]"`.

In a notebook, results show as tables, `.plot()` draws them, and {doc}`long runs show a bar <../start>`."""
"""How to open notebooks."""


def build(app) -> None:
    """Write the notebooks, their pictures and the gallery's own page."""
    source, root = Path(app.srcdir) / "gallery", Path(app.srcdir).parent
    cache = Path(app.srcdir) / "_build" / "examples"
    for folder in (source / "files", source / "pictures", cache):
        folder.mkdir(parents=True, exist_ok=True)
    stamp = fingerprint(root)
    cards = []
    for path in sorted((root / "examples").glob("*.py")):
        plain = jupytext.read(path)
        plain.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
        write(source / "files" / f"{path.stem}.ipynb", nbformat.writes(plain))
        text = path.read_text(encoding="utf-8")
        needed = [x for x in OPTIONAL if re.search(rf"^(import|from) {x}\b", text, flags=re.M)]
        missing = [x for x in needed if absent(x)]
        key = hashlib.sha256((stamp + text + str(missing)).encode()).hexdigest()[:16]
        done = cache / f"{path.stem}-{key}.ipynb"
        if not done.exists():
            notebook = plain if missing else executed(copy.deepcopy(plain), path.stem, root)
            done.write_text(nbformat.writes(notebook), encoding="utf-8")
        notebook = nbformat.reads(done.read_text(encoding="utf-8"), as_version=4)
        downloads = (
            f"{{download}}`Notebook <files/{path.stem}.ipynb>` · "
            f"{{download}}`Python <../../examples/{path.name}>`"
        )
        if needed:
            downloads += f" · needs {', '.join(PIP.get(x, x) for x in needed)}"
        if missing:
            downloads += f" · without output: {', '.join(missing)} was not installed when this site was built"
        title, _, rest = notebook.cells[0].source.partition("\n")
        notebook.cells[0].source = f"{title}\n\n{downloads}\n{rest}"
        write(source / f"{path.stem}.ipynb", nbformat.writes(notebook))
        cards.append(card(notebook, path.stem, rest, source))
    write(source / "index.md", index(cards))


def executed(notebook, name: str, root: Path):
    """Return the notebook with its outputs."""
    logger.info("executing %s", name)
    paths = [str(root), str(root / "analysis"), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "JAX_PLATFORMS": "cpu"}
    client = NotebookClient(notebook, timeout=600, kernel_name="python3")
    client.execute(env=environment)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
    return notebook


def card(notebook, name: str, text: str, folder: Path) -> str:
    """Return the gallery's entry: title, first sentences, and the last picture."""
    title = notebook.cells[0].source.partition("\n")[0].removeprefix("# ")
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    pictures = [o["data"]["image/png"] for o in outputs if "image/png" in o.get("data", {})]
    lines = [f":::{{grid-item-card}} {title}", f":link: {name}", ":link-type: doc"]
    if pictures:
        (folder / "pictures" / f"{name}.png").write_bytes(base64.b64decode(pictures[-1]))
        lines += [f":img-bottom: pictures/{name}.png", f":img-alt: A figure of the example “{title}”"]
    first = " ".join(text.strip().split("\n\n")[0].split())
    return "\n".join([*lines, "", " ".join(re.split(r"(?<=[.?]) ", first)[:2]), ":::"])


def index(cards: list[str]) -> str:
    """Return the gallery's page."""
    names = [re.search(r":link: (.*)", c).group(1) for c in cards]  # type: ignore[union-attr]
    return "\n\n".join(
        [
            "# Gallery",
            "Every example is a script, a notebook ([how to open it](#open-them)) and a page of this site. "
            "Its claims are asserted in its code, its figures come from running it, and the test suite runs "
            "all of them.",
            ":::::{grid} 1 1 2 2\n:gutter: 3\n",
            *cards,
            ":::::",
            OPENING,
            "\n".join(["```{toctree}", ":hidden:", "", *names, "```"]),
        ]
    )


def fingerprint(root: Path) -> str:
    """Return a hash of the package's sources."""
    digest = hashlib.sha256()
    for folder in ("psgd_core", "analysis/psgd_analysis"):
        for path in sorted((root / folder).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def absent(library: str) -> bool:
    """Whether a library is not installed."""
    return importlib.util.find_spec(library) is None


def write(path: Path, text: str) -> None:
    """Write a file, unless it holds the same already."""
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def setup(app) -> dict:
    """Connect."""
    app.connect("builder-inited", build)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
