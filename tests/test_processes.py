"""Forked children, threads, damaged compilation caches, and signals to the command."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PRELUDE = """
import os, sys, threading
import numpy as np
import psgd_core as psgd

N = 70_000  # above it kernels are shared by threads
FITTED = [psgd.Diagonal(), psgd.XMat(), psgd.LowRank(rank=2)]

def fit(p, n=N):
    rng = np.random.default_rng(0)
    state = p.init(n, like=np.zeros(1, dtype="f4"))
    for _ in range(2):
        v = rng.standard_normal(n).astype("f4")
        state = p.update(state, v, 2 * v, step=0.3)
    return p.precondition(state, v)
"""


def ran(code, *arguments, **variables):
    """Return what a fresh interpreter prints; it must end well."""
    paths = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "analysis")])}
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + code, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, **paths, **variables},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """A folder with the compiled kernels, and what fits return."""
    pytest.importorskip("numba", reason="the kernels need numba (the extra `fast`)")
    folder = tmp_path_factory.mktemp("cache")
    ran("for p in FITTED: fit(p)", NUMBA_CACHE_DIR=str(folder))
    return folder


# -- fork and threads ----------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "fork"), reason="POSIX")
@pytest.mark.parametrize("layer", ["omp", "workqueue", "tbb"])
def test_a_forked_child_fits_whatever_its_parent_did(cache, layer):
    """Where a layer is not installed, one thread does the work."""
    code = """
import warnings
warnings.simplefilter("ignore")  # of Python: that forking beside threads is a risk
expected = [fit(p) for p in FITTED]
for grandchild in (False, True):
    child = os.fork()
    if child == 0:
        if grandchild and os.fork():
            os._exit(os.WEXITSTATUS(os.wait()[1]))
        same = all(np.array_equal(fit(p), x) for p, x in zip(FITTED, expected))
        os._exit(0 if same else 1)
    print(os.waitpid(child, 0)[1])
"""
    variables = {"NUMBA_CACHE_DIR": str(cache), "NUMBA_THREADING_LAYER": layer}
    assert ran(code, **variables).split() == ["0", "0"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="POSIX")
def test_a_child_forked_while_a_thread_compiles_compiles_too(tmp_path):
    """The lock of numba's compiler is free in the child, whoever held it in the parent."""
    pytest.importorskip("numba", reason="the kernels need numba (the extra `fast`)")
    code = """
import signal, warnings
warnings.simplefilter("ignore")
from numba.core.compiler_lock import global_compiler_lock
fit(FITTED[0], 9)  # imports all
held, enough = threading.Event(), threading.Event()

def compile_slowly():
    with global_compiler_lock:
        held.set()
        enough.wait(0.5)

thread = threading.Thread(target=compile_slowly)
thread.start()
held.wait()
child = os.fork()
if child == 0:
    signal.alarm(60)  # ends it, should it hang
    fit(psgd.Dense(), 9)  # which is not compiled yet
    os._exit(0)
print(os.waitpid(child, 0)[1])
thread.join()
"""
    assert ran(code, NUMBA_CACHE_DIR=str(tmp_path)).split() == ["0"]


@pytest.mark.parametrize("layer", ["omp", "workqueue"])
def test_threads_beside_each_other_fit_as_one(cache, layer):
    code = """
expected = [fit(p) for p in FITTED]
found = [None] * 9
barrier = threading.Barrier(9)

def work(i):
    barrier.wait()
    found[i] = [fit(FITTED[(i + j) % 3]) for j in range(3)]

threads = [threading.Thread(target=work, args=(i,)) for i in range(9)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(all(np.array_equal(found[i][j], expected[(i + j) % 3]) for i in range(9) for j in range(3)))
"""
    assert ran(code, NUMBA_CACHE_DIR=str(cache), NUMBA_THREADING_LAYER=layer).split() == ["True"]


# -- what numba keeps on disk --------------------------------------------------------------------------------


def flipped(raw):
    """Return it with a bit changed in every 64th byte: machine code that runs, perhaps."""
    return bytes(byte ^ (1 << i % 8) if i % 64 == 17 else byte for i, byte in enumerate(raw))


DAMAGES = {
    "cut": lambda raw: raw[: len(raw) // 2],
    "emptied": lambda raw: b"",
    "flipped": flipped,
    "one bit": lambda raw: raw[:-200] + bytes([raw[-200] ^ 1]) + raw[-199:],
    "foreign": lambda raw: b"cos\nsystem\n(S'false'\ntR." * 3,
    "longer": lambda raw: raw + b"\0",
}
CHEAP = "print(psgd.kernels.available(), float(fit(FITTED[0], 100).sum()))"


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The kernels of a small update alone, which compile in a second or so; and what it returns."""
    pytest.importorskip("numba", reason="the kernels need numba (the extra `fast`)")
    folder = tmp_path_factory.mktemp("small")
    return folder, ran(CHEAP, NUMBA_CACHE_DIR=str(folder))


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_cache_is_compiled_anew(small, tmp_path, damage):
    folder, expected = small
    files = [path for path in folder.rglob("*") if path.suffix in (".nbi", ".nbc")]
    assert len(files) >= 4
    for path in files:
        copy = tmp_path / path.relative_to(folder)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(DAMAGES[damage](path.read_bytes()))
    assert ran(CHEAP, NUMBA_CACHE_DIR=str(tmp_path)) == expected


def test_what_calls_a_changed_function_of_another_file_is_compiled_anew(tmp_path):
    pytest.importorskip("numba", reason="the kernels need numba (the extra `fast`)")
    from psgd_core.kernels.cpu import compile as compiling

    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    shutil.copy(compiling.__file__, package / "compile.py")
    outer = "from .compile import njit\nfrom .inner import g\n@njit(cache=True)\ndef f(x):\n    return g(x)\n"
    (package / "outer.py").write_text(outer)
    for number in ("1", "20"):
        inner = f"from .compile import njit\n@njit(cache=True)\ndef g(x):\n    return x + {number}\n"
        (package / "inner.py").write_text(inner)
        code = """
sys.path.insert(0, sys.argv[1])
from package.outer import f
print(f(0), sum(f.stats.cache_hits.values()))
"""
        again = [ran(code, tmp_path, NUMBA_CACHE_DIR=str(tmp_path / "cache")).split() for _ in range(2)]
        assert again == [[number, "0"], [number, "1"]]


@pytest.mark.parametrize("place", ["a file", "below a file", "read-only", "missing"])
def test_without_a_place_for_the_cache_all_is_compiled_in_memory(small, tmp_path, place):
    folder = tmp_path / "cache"
    if place == "read-only":
        folder.mkdir(mode=0o500)
    elif place != "missing":
        folder.write_text("not a folder")
    where = folder / "below" if place in ("below a file", "missing") else folder
    assert ran(CHEAP, NUMBA_CACHE_DIR=str(where)) == small[1]


# -- signals to the command ----------------------------------------------------------------------------------

COMMANDS = {
    "verify": (["--jobs", "2", "-p", "xmat", "--n", "4", "--steps", "100"], "verify.json"),
    "minimize": (["rosenbrock", "--maxiter", "20"], "minimize.json"),
    "spectrum": (["dense", "--n", "16", "--products", "10"], "spectrum.json"),
    "bench": (["--n", "1e4", "--budget", "1000", "--peers", "none", "--copy-mib", "8"], "bench.json"),
}

RUN = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where pytest runs in the background
sys.argv[0] = "psgd"
when, number = sys.argv.pop(1), int(sys.argv.pop(1))

def send():
    signal.raise_signal(number)  # to this thread: it is there before the next line

if when == "imports":
    class Finder:
        def find_spec(self, name, path=None, target=None):
            if name == "scipy.linalg":
                send()
    sys.meta_path.insert(0, Finder())
else:
    from psgd_analysis.{module} import {name} as original
    import psgd_analysis.{module} as module
    def wrapped(*arguments, **options):
        {body}
    module.{name} = wrapped
from psgd_analysis.__main__ import main
main()
"""

DURING = {
    "verify": (
        "sweeps.sweep",
        "opened",
        "found = original(*arguments)\n        send()\n        return found",
    ),
    "minimize": ("minimize.run", "_run", "original(*arguments)\n        send()"),
    "spectrum": ("spectrum.report", "group_study", "send()\n        return original(*arguments)"),
    "bench": (
        "bench.command",
        "run",
        "for row in original(*arguments):\n            yield row\n            send()",
    ),
}


def interrupted(tmp_path, command, when, number):
    arguments, name = COMMANDS[command]
    module, function, body = DURING[command]
    script = tmp_path / "run.py"
    text = RUN.replace("{module}", module).replace("{name}", function).replace("{body}", body)
    script.write_text(text)
    done = subprocess.run(
        [sys.executable, script, when, str(int(number)), command, *arguments, "--out", tmp_path],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "analysis")])},
        check=False,
    )
    return done, tmp_path / name


@pytest.mark.skipif(os.name != "posix", reason="POSIX signals")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_signal_ends_a_command_with_what_there_is(tmp_path, command, number, code):
    done, path = interrupted(tmp_path, command, "work", number)
    assert done.returncode == code, done.stderr[-2000:]
    assert done.stderr.strip().splitlines()[-1] == "psgd: interrupted"
    assert "Traceback" not in done.stderr
    content = json.loads(path.read_text())
    interrupted_is = content["interrupted"] if "interrupted" in content else content["about"]["interrupted"]
    assert interrupted_is is True


@pytest.mark.skipif(os.name != "posix", reason="POSIX signals")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_during_imports_ends_in_one_line(tmp_path, number, code):
    done, _ = interrupted(tmp_path, "spectrum", "imports", number)
    assert done.returncode == code
    assert done.stderr == "psgd: interrupted\n"


@pytest.mark.skipif(os.name != "posix", reason="POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_a_finaliser_swallows_comes_again(number):
    code = f"""
import signal, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where pytest runs in the background
from psgd_analysis import interrupts
interrupts.listen()

class Finalised:
    def __del__(self):
        signal.raise_signal({int(number)})
        time.sleep(0.01)

def work():
    Finalised()
    time.sleep(30)
    print("went on")

print(interrupts.until_interrupted(work), interrupts.code(0), len(interrupts._noted))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "analysis")])},
        check=True,
    )
    assert done.stdout.split() == ["True", str(128 + number), "1"]
    assert done.stderr == ""


def test_results_are_written_in_full_after_a_signal(monkeypatch):
    from psgd_analysis import interrupts

    monkeypatch.setattr(interrupts, "_noted", [])
    monkeypatch.setattr(interrupts, "_finishing", [])
    assert interrupts.code(1) == 1

    def work():
        interrupts._handle(signal.SIGTERM, None)

    assert interrupts.until_interrupted(work)
    assert interrupts.code(0) == 143
    with pytest.raises(KeyboardInterrupt):  # the second one ends it
        interrupts._handle(signal.SIGINT, None)
    assert interrupts.code(0) == 143
