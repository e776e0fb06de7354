"""Checkpoints made to deceive, places that are no files, savers that are killed or beside each other."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import stat
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from forgery import ARRAY, forge, header_of, refused

from psgd_core.checkpoint import CheckpointError, load, save

# -- forged files: whatever is wrong with them ---------------------------------------------------------------


JUNK = [
    None,
    True,
    -1,
    0,
    1,
    2**63,
    10**40,
    1.5,
    float("nan"),
    "",
    "x",
    "\ud800",
    "float64",
    [],
    [0],
    [-1],
    {},
]


def spots(tree, path=()):
    """Return the paths of all parts of a JSON document."""
    inner = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [path, *(spot for key, part in inner for spot in spots(part, (*path, key)))]


def changed(tree, path, change):
    """Return a copy with the part at `path` changed; None deletes it."""
    if not path:
        return change(tree)
    tree = dict(tree) if isinstance(tree, dict) else list(tree)
    if change is None and len(path) == 1:
        del tree[path[0]]
    else:
        tree[path[0]] = changed(tree[path[0]], path[1:], change)
    return tree


def test_a_header_changed_anywhere_loads_or_is_refused(tmp_path):
    """Every part replaced by every kind of junk, removed, and beside a stranger, under a right checksum."""
    config = {"class": "XMat", "fields": {"damping": "None"}}
    header = header_of(
        {"kind": "tuple", "class": "tuple", "parts": {"0": ARRAY, "1": {"value": 2}}}
    ) | {"config": config}  # fmt: skip
    path, loaded = tmp_path / "f.npz", []
    for spot in spots(header):
        changes = [lambda _, junk=junk: junk for junk in JUNK]
        changes += [
            lambda part: [part],
            lambda part: {**part, "more": 1} if isinstance(part, dict) else {"a": part},
        ]
        for change in [*changes, None] if spot else changes:
            forged = changed(header, spot, change)
            forge(path, forged, **{"0": np.arange(3.0)})
            try:
                loaded.append(load(path))
            except CheckpointError:
                continue
    assert len(loaded) > 20  # metadata, texts of the configuration, another value
    for state in loaded:
        assert type(state) is tuple
        assert np.array_equal(state[0], np.arange(3.0))
        assert all(x is None or type(x) in (bool, int, float, str) for x in state[1:])


@pytest.mark.parametrize(
    "structure",
    [
        {"kind": "list", "class": "list", "parts": {"0": ARRAY, "1": ARRAY}},  # one array, many times
        {"kind": "list", "class": "list", "parts": {"1": ARRAY}},
        {"kind": "dict", "class": "list", "parts": {"a": ARRAY}},
        {"kind": "namedtuple", "class": "OrbitState", "parts": {"q": ARRAY}},
        {"value": 1},  # an array that nothing refers to
        {"value": [1]},
        ARRAY | {"shape": [3, 1], "order": [0, 1]},
        ARRAY | {"shape": [-3]},
        ARRAY | {"shape": [3.0]},
        ARRAY | {"shape": [True]},
        ARRAY | {"shape": [0] * 100, "order": list(range(100))},
        ARRAY | {"array": True},
        ARRAY | {"array": -1},
        ARRAY | {"dtype": "float32"},
        ARRAY | {"more": 1},
    ],
    ids=range(15),
)
def test_structures_that_save_does_not_write(tmp_path, structure):
    forge(tmp_path / "f.npz", header_of(structure), **{"0": np.zeros(3)})
    with pytest.raises(CheckpointError, match=r"do not use it|not a state"):
        load(tmp_path / "f.npz")


def test_members_that_save_does_not_write(tmp_path):
    path = tmp_path / "f.npz"
    x = np.zeros(3)
    for members in (
        {},
        {"1": x},
        {"0": x, "1": x},
        {"0": x, "x": x},
        {"0": x.astype(">f8")},
        {"0": x.astype("M8[s]")},
        {"0": x[:, None]},
    ):
        forge(path, header_of(ARRAY), **members)
        refused(path, "do not use it")


@pytest.mark.parametrize(
    "packing", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA, zipfile.ZIP_STORED]
)
def test_an_array_longer_than_the_file_takes_no_memory(tmp_path, monkeypatch, packing):
    """Zeros packed a thousand times, or a header that promises what is not there."""
    path, count = tmp_path / "bomb.npz", 2**18
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "<f8", "fortran_order": False, "shape": (count,)})
    if packing != zipfile.ZIP_STORED:
        stream.write(bytes(8 * count))
    text = json.dumps(header_of(ARRAY | {"shape": [count]})).encode()
    with zipfile.ZipFile(path, "w", packing) as archive:
        with archive.open("psgd_checkpoint.npy", "w", force_zip64=True) as entry:
            np.lib.format.write_array(entry, np.frombuffer(text, dtype=np.uint8))
        archive.writestr("0.npy", stream.getvalue())
        archive.comment = b"sha256:" + b"0" * 64
    body = path.read_bytes()[:-64]
    path.write_bytes(body + hashlib.sha256(body).hexdigest().encode())
    monkeypatch.setattr(np.lib.format, "read_array", None)
    refused(path, "not written by psgd_core.save")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="POSIX")
def test_fifos_devices_and_directories_are_neither_read_nor_replaced(tmp_path):
    path = tmp_path / "x"
    for make, kind in (
        (os.mkfifo, "a FIFO"),
        (os.mkdir, "a directory"),
        (lambda path: os.symlink("/dev/null", path), "a device"),
    ):
        make(path)
        before = path.lstat().st_ino
        with pytest.raises(OSError, match=f"must be a regular file or a new one, got {kind}"):
            save(path, np.zeros(1))
        assert path.lstat().st_ino == before
        with pytest.raises(IsADirectoryError if kind == "a directory" else CheckpointError):
            load(path)
        assert os.listdir(tmp_path) == ["x"]
        path.rmdir() if kind == "a directory" else path.unlink()


@pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o444, 0o664, 0o755])
def test_the_mode_of_what_is_replaced_is_kept(tmp_path, mode):
    path = tmp_path / "x.npz"
    save(path, np.zeros(1))
    path.chmod(mode)
    save(path, np.ones(1))
    assert stat.S_IMODE(path.stat().st_mode) == mode
    assert load(path)[0] == 1.0


def test_states_that_nest_without_end_are_refused_before_writing(tmp_path):
    loop = []
    loop.append(loop)
    for state in (loop, 2**9000, [[-(2**9000)]]):
        with pytest.raises(TypeError, match=r"must nest at most 100 deep|must have at most 8192 bits"):
            save(tmp_path / "x.npz", state)
    assert os.listdir(tmp_path) == []
    deep = [1]
    for _ in range(99):
        deep = [deep]
    save(tmp_path / "x.npz", deep)
    assert load(tmp_path / "x.npz") == deep


# -- savers that are killed, and savers beside each other ----------------------------------------------------

SAVER = """
import sys
import numpy as np
import psgd_core
state = [np.full(200_000, i, dtype=float) for i in range(3)]
print("ready", flush=True)
while True:
    psgd_core.save(sys.argv[1], state)
"""


@pytest.mark.skipif(os.name != "posix", reason="POSIX signals and locks")
def test_killed_savers_leave_a_whole_file_and_no_rest(tmp_path):
    path, whole = tmp_path / "x.npz", [np.full(200_000, i, dtype=float) for i in range(3)]
    save(path, whole)
    for i in range(4):
        saver = subprocess.Popen([sys.executable, "-c", SAVER, str(path)], stdout=subprocess.PIPE)
        saver.stdout.readline()
        for _ in range(1000 * i):  # somewhere in the middle
            os.stat(path)
        saver.kill()
        saver.wait()
        saver.stdout.close()
        assert np.array_equal(load(path), whole)
        assert len(os.listdir(tmp_path)) <= 2
    save(path, whole)
    assert os.listdir(tmp_path) == ["x.npz"]


def test_savers_beside_each_other_do_not_take_each_others_files(tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    path = tmp_path / "x.npz"

    def some(i):
        for _ in range(10):
            save(path, np.full(1000, float(i)))
            assert len(np.unique(load(path))) == 1

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(some, range(4)))
    assert os.listdir(tmp_path) == ["x.npz"]


@pytest.mark.skipif(os.name != "posix", reason="POSIX locks")
def test_what_another_machine_may_still_write_is_left_for_a_day(tmp_path):
    from psgd_core.checkpoint import replacing

    path = tmp_path / "x.npz"
    kept = []
    original = os.replace
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(replacing, "_machine", lambda: "another")
        patch.setattr(os, "replace", lambda old, new: (kept.append(old), shutil.copy(old, f"{old}.copy")))
        save(path, np.zeros(1))
    original(f"{kept[0]}.copy", kept[0])
    save(path, np.zeros(1))
    assert os.path.exists(kept[0])
    os.utime(kept[0], (0, 0))
    save(path, np.zeros(1))
    assert os.listdir(tmp_path) == ["x.npz"]


# -- what cannot be stored as it is --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", "x/", "a\0b"])
def test_names_that_are_no_files_are_refused(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    for call in (lambda: save(name, np.zeros(1)), lambda: load(name)):
        with pytest.raises(ValueError, match="`path` must be the name of a file"):
            call()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("metadata", [{1: "a", "1": "b"}, {"x": [{None: 2}]}, {"x": ({True: 3},)}])
def test_keys_of_metadata_that_json_would_change_are_refused(tmp_path, metadata):
    with pytest.raises(TypeError, match=r"`metadata` must be JSON .* is not a str"):
        save(tmp_path / "x.npz", np.zeros(1), metadata=metadata)
    assert os.listdir(tmp_path) == []


def test_masks_are_not_lost_silently(tmp_path):
    with pytest.raises(TypeError, match=r"`state\.x` must be a plain array, got MaskedArray"):
        save(tmp_path / "x.npz", {"x": np.ma.masked_array([1.0, 2.0], mask=[False, True])})
    assert os.listdir(tmp_path) == []


def test_torch_tensors_that_are_lazy_are_stored_and_those_without_values_refused(tmp_path):
    torch = pytest.importorskip("torch")
    x = torch.tensor([1.0 + 2.0j, 3.0j])
    for lazy, expected in ((x.conj(), [1 - 2j, -3j]), (x.conj().imag, [-2, -3])):
        save(tmp_path / "x.npz", {"x": lazy})
        assert np.array_equal(load(tmp_path / "x.npz")["x"], expected)
    before = (tmp_path / "x.npz").read_bytes()
    for empty in (torch.ones(2, device="meta"), torch.eye(2).to_sparse()):
        with pytest.raises(TypeError, match=r"`state\.x` must be a (dense|plain) array"):
            save(tmp_path / "x.npz", {"x": empty})
    assert (tmp_path / "x.npz").read_bytes() == before


def test_traced_and_deleted_jax_arrays_are_refused(tmp_path):
    jax = pytest.importorskip("jax")

    def traced(x):
        save(tmp_path / "x.npz", {"x": x})
        return x

    gone = jax.numpy.ones(2)
    gone.delete()
    for call in (lambda: jax.jit(traced)(jax.numpy.ones(2)), lambda: traced(gone)):
        with pytest.raises(TypeError, match=r"`state\.x` must be a dense array with concrete values"):
            call()
