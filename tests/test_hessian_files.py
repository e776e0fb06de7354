"""Files of Hessians that are damaged, forged or foreign: read right, or refused with one sentence."""

from __future__ import annotations

import bz2
import gzip
import io
import itertools
import os
import zipfile

import numpy as np
import pytest
import scipy.io
import scipy.sparse

from psgd_analysis.problems import load_hessian

H = np.array([[2.0, 1.25, 0.0], [1.25, -3.0, 0.5], [0.0, 0.5, 1.0]])
PACKERS = {"": lambda raw: raw, ".gz": lambda raw: gzip.compress(raw, mtime=0), ".bz2": bz2.compress}


def as_mtx(h, **options):
    stream = io.BytesIO()
    scipy.io.mmwrite(stream, h, **options)
    return stream.getvalue()


def as_npz(**arrays):
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def sparse_npz(h=H, layout="csr", compressed=False):
    stream = io.BytesIO()
    scipy.sparse.save_npz(stream, scipy.sparse.coo_array(h).asformat(layout), compressed=compressed)
    return stream.getvalue()


def npy(h=H):
    stream = io.BytesIO()
    np.save(stream, h)
    return stream.getvalue()


FILES = {
    "h.npy": npy(),
    "h.npz": as_npz(h=H),
    "csr.npz": sparse_npz(),
    "coo.npz": sparse_npz(layout="coo", compressed=True),
    "dia.npz": sparse_npz(layout="dia", compressed=True),
    "array.mtx": as_mtx(H),
    "sparse.mtx": as_mtx(scipy.sparse.coo_array(H), symmetry="symmetric"),
    "sparse.mtx.gz": PACKERS[".gz"](as_mtx(scipy.sparse.coo_array(H), symmetry="general")),
    "sparse.mtx.bz2": PACKERS[".bz2"](as_mtx(scipy.sparse.coo_array(H), symmetry="symmetric")),
}


def read(path, raw):
    """Return the matrix, or None if it is refused; nothing else can come of it."""
    path.write_bytes(raw)
    try:
        return load_hessian(path, singular_ok=True)
    except ValueError as refusal:
        sentence = str(refusal)
    assert sentence.startswith(f"{path}: ")
    assert "\n" not in sentence
    return None


def places(raw):
    """Return where to damage it: everywhere, or in a long one at every seventh byte and at the end."""
    return (
        range(len(raw))
        if len(raw) < 400
        else sorted({*range(0, len(raw), 7), *range(len(raw) - 30, len(raw))})
    )


def refused(path, raw, match):
    path.write_bytes(raw)
    with pytest.raises(ValueError, match=match) as caught:
        load_hessian(path, singular_ok=True)
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize("name", FILES)
def test_cut_short_anywhere_it_is_right_or_refused(tmp_path, name):
    raw = FILES[name]
    assert np.array_equal(read(tmp_path / name, raw), H)
    accepted = [size for size in places(raw) if read(tmp_path / name, raw[:size]) is not None]
    assert accepted == []


@pytest.mark.parametrize("name", FILES)
def test_any_bit_flipped_it_is_right_or_refused(tmp_path, name):
    """Formats with a checksum of the numbers notice all; of the others, what is read must be a Hessian."""
    raw, checked = bytearray(FILES[name]), name.endswith((".npz", ".gz", ".bz2"))
    for i in places(raw):
        raw[i] ^= 1 << i % 8
        found = read(tmp_path / name, bytes(raw))
        raw[i] ^= 1 << i % 8
        if found is not None:
            assert np.array_equal(found, found.T)
            assert np.all(np.isfinite(found))
            assert not checked or np.array_equal(found, H), i


@pytest.mark.parametrize("name", ["a.MTX", "A.Mtx.GZ", "A.MTX.BZ2", "B.NPZ", "b.Npy"])
def test_names_in_upper_case(tmp_path, name):
    ending = name.lower().partition(".")[2]
    raw = next(raw for known, raw in FILES.items() if known.endswith(f".{ending}"))
    assert np.array_equal(read(tmp_path / name, raw), H)


# -- sparse matrices -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["coo", "csr", "csc", "bsr", "dia"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int16])
def test_every_sparse_layout_is_what_scipy_makes_of_it(tmp_path, layout, dtype):
    rng = np.random.default_rng(3)
    h = np.where(rng.random((12, 12)) < 0.4, rng.integers(-9, 9, (12, 12)), 0).astype(dtype)
    h = h + h.T
    expected = scipy.sparse.load_npz(io.BytesIO(sparse_npz(h, layout))).toarray()
    assert np.array_equal(read(tmp_path / "h.npz", sparse_npz(h, layout)), expected)
    blocks = scipy.sparse.csr_array(h).tobsr((3, 2))
    scipy.sparse.save_npz(tmp_path / "blocks.npz", blocks)
    assert np.array_equal(load_hessian(tmp_path / "blocks.npz", singular_ok=True), h)


def test_repeated_sparse_entries_are_added_up_as_scipy_does(tmp_path):
    raw = as_npz(
        format="coo", shape=[2, 2], row=[0, 0, 1, 1, 0], col=[0, 1, 0, 1, 0], data=[1.0, 2.0, 2.0, 7.0, 4.0]
    )
    assert np.array_equal(read(tmp_path / "h.npz", raw), [[5.0, 2.0], [2.0, 7.0]])


CSR = {
    "format": np.array(b"csr"),
    "shape": np.array([3, 3]),
    "data": np.ones(3),
    "indices": np.arange(3),
    "indptr": np.arange(4),
}
DIA = {
    "format": np.array("dia"),
    "shape": np.array([3, 3]),
    "offsets": np.array([0]),
    "data": np.ones((1, 3)),
}


@pytest.mark.parametrize(
    "change",
    [
        {"indices": np.array([0, 1, 3])},
        {"indices": np.array([0, -1, 2])},
        {"indices": np.array([0, 1, 2**40])},
        {"indices": np.array([0.0, 1.0, 2.0])},
        {"indices": np.array([[0, 1, 2]])},
        {"indices": np.arange(4)},
        {"indptr": np.array([0, 2, 1, 3])},
        {"indptr": np.array([0, 2, 1, 3], dtype=np.uint8)},
        {"indptr": np.array([1, 1, 2, 3])},
        {"indptr": np.array([-5, 1, 2, 3])},
        {"indptr": np.array([0, 1, 2, 4])},
        {"indptr": np.array([0, 1, 2**62, 3])},
        {"indptr": np.arange(3)},
        {"indptr": np.zeros(0, dtype=int)},
        {"data": np.ones(2)},
        {"data": np.ones((0, 3, 3))},
        {"data": np.ones((3, 2, 2))},
        {"data": np.ones(3) * 1j},
        {"data": np.ones(3, dtype=bool)},
        {"data": np.array(["a", "b", "c"])},
        {"shape": np.array([3, 3, 3])},
        {"shape": np.array([3.0, 3.0])},
        {"shape": np.array([-3, -3])},
        {"shape": np.array([2**62, 2**62])},
        {"shape": np.array([9000, 9000]), "indptr": np.zeros(9001, int), "indices": np.zeros(0, int),
         "data": np.zeros(0)},
        {"format": np.array(b"lil")},
        {"format": np.array(7)},
        {"format": np.array(["csr", "csc"])},
        {**DIA, "offsets": np.array([3])},
        {**DIA, "offsets": np.array([2**64 - 1], dtype=np.uint64)},
        {**DIA, "offsets": np.array([0, 1])},
        {**DIA, "offsets": np.array([0, 0]), "data": np.ones((2, 3))},
        {**DIA, "data": np.ones(3)},
        {"format": np.array("coo"), "row": np.arange(3), "col": np.array([0, 1, 9])},
        {"format": np.array("coo"), "row": np.arange(3), "col": np.arange(2)},
        {"format": np.array("coo"), "row": np.arange(3)},
    ],
    ids=itertools.count(),
)  # fmt: skip
def test_sparse_parts_that_do_not_fit_each_other(tmp_path, change):
    assert np.array_equal(read(tmp_path / "good.npz", as_npz(**CSR)), np.eye(3))
    assert np.array_equal(read(tmp_path / "good.npz", as_npz(**DIA)), np.eye(3))
    refused(tmp_path / "h.npz", as_npz(**{**CSR, **change}), r"h\.npz: .*(must|sparse matrix of|leave those)")


def test_a_member_given_twice_is_refused(tmp_path):
    stream = io.BytesIO(sparse_npz())
    with zipfile.ZipFile(stream, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("data.npy", npy(np.zeros(7)))
    refused(tmp_path / "h.npz", stream.getvalue(), "holds 'data.npy' twice")


# -- sizes ---------------------------------------------------------------------------------------------------


def npy_header(shape, dtype="<f8"):
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": dtype, "fortran_order": False, "shape": shape})
    return stream.getvalue()


@pytest.mark.parametrize("shape", [(10**6, 10**6), (2**31, 2**31), (30_000, 30_000), (3, -3), (3, 3, 10**12)])
@pytest.mark.parametrize("name", ["h.npy", "h.npz", "csr.npz"])
def test_an_array_longer_than_its_file_is_refused_before_memory_is_taken(tmp_path, monkeypatch, shape, name):
    raw = npy_header(shape)
    if name != "h.npy":
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
            for member in ["data.npy", "shape.npy", "format.npy"] if name == "csr.npz" else ["h.npy"]:
                archive.writestr(member, raw)
        raw = stream.getvalue()
    monkeypatch.setattr(np, "empty", None)
    monkeypatch.setattr(np, "zeros", None)
    refused(tmp_path / name, raw, "must|tells of|its shape is|sparse matrix of")


@pytest.mark.parametrize("packer", PACKERS)
@pytest.mark.parametrize(
    "text",
    [
        "coordinate real general\n99999999 99999999 1\n1 1 1\n",
        "coordinate real general\n30000 30000 1\n1 1 1\n",
        "coordinate real symmetric\n3000 3000 8999999\n1 1 1\n",
        "coordinate pattern symmetric\n2 2 5\n1 1\n",
        "array real general\n30000 30000\n1\n",
        "array integer symmetric\n99999999999999999999 2\n1\n",
    ],
)
def test_a_matrix_larger_than_its_file_is_refused(tmp_path, packer, text):
    raw = PACKERS[packer](b"%%MatrixMarket matrix " + text.encode())
    refused(tmp_path / f"h.mtx{packer}", raw, "must have n at most|is not a valid|leave those out")


@pytest.mark.parametrize(
    "filler", [b"\n", b"% comment\n", b"1 1 1\n", b"x", b" " * 100 + b"\n"], ids=itertools.count()
)
@pytest.mark.parametrize("place", ["header", "end"])
def test_a_bomb_is_read_no_further_than_its_header_promises(tmp_path, filler, place):
    banner, body = b"%%MatrixMarket matrix coordinate real symmetric\n", b"2 2 2\n1 1 2\n2 2 3\n"
    bomb = filler * (2**21 // len(filler))
    raw = banner + (bomb + body if place == "header" else body + bomb)
    for packer in (".gz", ".bz2"):
        refused(tmp_path / f"h.mtx{packer}", PACKERS[packer](raw), "is not a valid")


# -- Matrix Market -------------------------------------------------------------------------------------------


def coordinate(entries, kind="real symmetric", n=2):
    lines = [f"%%MatrixMarket matrix coordinate {kind}", f"{n} {n} {len(entries)}", *entries]
    return "".join(f"{line}\n" for line in lines).encode()


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("2.5", 2.5),
        ("+2", 2.0),
        ("-.5e1", -5.0),
        ("2.", 2.0),
        ("1.5e+03", 1500.0),
        ("2E2", 200.0),
    ],
)
def test_numbers_that_are_some(tmp_path, word, value):
    found = read(tmp_path / "h.mtx", coordinate([f"1 1 {word}", "2 2 3"]))
    assert np.array_equal(found, np.diag([value, 3.0]))
    text = (
        f"%%matrixmarket MATRIX Array Real Symmetric\r\n%\r\n\r\n 2 2\r\n{word}\r\n\r\n0 \r\n3\r\n".encode()
    )
    assert np.array_equal(read(tmp_path / "h.mtx", text), np.diag([value, 3.0]))


@pytest.mark.parametrize(
    "word",
    ["", "2,5", "2.5 7", "2.5x", "0x10", "1_0", "1e", "e5", ".", "--2", "1e5.5", "2;", "½", "1/2", "2.5%",
     "\0", "2i", "1.5D+03", "1d-1", "nan", "-inf", "1e999"],
)  # fmt: skip
def test_numbers_that_are_none(tmp_path, word):
    refused(tmp_path / "h.mtx", coordinate([f"1 1 {word}", "2 2 3"]), "is not a valid .mtx|must be finite")
    text = f"%%MatrixMarket matrix array real symmetric\n2 2\n{word}\n0\n3\n".encode()
    refused(tmp_path / "h.mtx", text, "is not a valid .mtx|must be finite")


@pytest.mark.parametrize(
    "raw",
    [
        coordinate(["1 1 2", "2 2 3", "1 2 1"]),  # above the diagonal
        coordinate(["1 1 2", "2 2 3", "1 1 2"]),  # twice
        coordinate(["1 1 2", "2 2 3", "3 1 1"]),
        coordinate(["1 1 2", "2 2 3", "0 1 1"]),
        coordinate(["1 1 2", "2 2 3", "-1 1 1"]),
        coordinate(["1 1 2", "2 2 3", "1.0 1 1"]),
        coordinate(["1 1 2", "2 2"]),
        coordinate(["1 1 2.5", "2 2 3"], "integer symmetric"),
        coordinate(["1 1 2 0", "2 2 3 0"], "complex hermitian"),
        coordinate(["1 1 2", "2 2 3"], "real hermitian"),
        coordinate(["2 1 3"], "real skew-symmetric"),
        coordinate(["1 1 1", "2 2 1"], "pattern general"),
        coordinate(["1 1 2", "2 2 3"], "real diagonal"),
        coordinate(["1 1 2", "2 2 3"], "quaternion general"),
        coordinate(["1 1 2", "2 2 3"]).replace(b"coordinate", b"list"),
        coordinate(["1 1 2", "2 2 3"]).replace(b"matrix", b"vector"),
        coordinate(["1 1 2", "2 2 3"]) + b"1 1 1\n",
        coordinate(["1 1 2", "2 2 3"]) + b"the end\n",
        coordinate(["1 1 2", "2 2 3"]) + b"\0\0\0\n",
        coordinate(["1 1 2", "2 2 3"]).replace(b"2 2 2", b"2 2 3"),
        coordinate(["1 1 2", "2 2 3"]).replace(b"2 2 2", b"2 2 2 2"),
        coordinate(["1 1 2", "2 2 3"]).replace(b"2 2 2", b"2 2 2.0"),
        b"\xef\xbb\xbf" + coordinate(["1 1 2", "2 2 3"]),
        b"%%MatrixMarket matrix array pattern general\n2 2\n1\n0\n0\n1\n",
        b"%%MatrixMarket matrix array real symmetric\n2 2\n1\n0\n0\n1\n",
    ],
    ids=itertools.count(),
)
def test_matrix_market_files_that_are_wrong(tmp_path, raw):
    refused(tmp_path / "h.mtx", raw, "is not a valid .mtx|must")


@pytest.mark.parametrize("layout", [np.asarray, scipy.sparse.coo_array])
@pytest.mark.parametrize("symmetry", ["general", "symmetric"])
@pytest.mark.parametrize("field", ["real", "integer"])
def test_what_scipy_writes_is_what_it_reads(tmp_path, layout, symmetry, field):
    rng = np.random.default_rng(7)
    h = rng.integers(-9, 9, (40, 40)) if field == "integer" else rng.standard_normal((40, 40))
    raw = as_mtx(layout(h + h.T), symmetry=symmetry, field=field)
    expected = scipy.io.mmread(io.BytesIO(raw))
    expected = expected.toarray() if scipy.sparse.issparse(expected) else expected
    assert np.array_equal(read(tmp_path / "h.mtx", raw), expected)


# -- what is no file, and numbers that do not fit ------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="POSIX")
@pytest.mark.parametrize("ending", ["npy", "npz", "mtx", "mtx.gz"])
def test_fifos_directories_and_devices_are_refused_at_once(tmp_path, ending):
    path = tmp_path / f"h.{ending}"
    for make, kind in (
        (os.mkfifo, "a FIFO"),
        (os.mkdir, "a directory"),
        (lambda path: os.symlink("/dev/zero", path), "a device"),
    ):
        make(path)
        with pytest.raises(ValueError, match=rf"h\.{ending}: must be a file, got {kind}"):
            load_hessian(path)
        path.rmdir() if kind == "a directory" else path.unlink()


def test_numbers_too_large_for_the_dtype_asked_for_are_refused(tmp_path):
    np.save(tmp_path / "h.npy", np.diag([1.0, 1e39]))
    assert load_hessian(tmp_path / "h.npy", singular_ok=True)[1, 1] == 1e39
    with pytest.raises(ValueError, match=r"must fit into float32, got up to 1e\+39"):
        load_hessian(tmp_path / "h.npy", singular_ok=True, like=np.zeros(1, np.float32))


@pytest.mark.parametrize("size", [1e-320, 1e-200, 1e200, 1e308])
def test_extreme_scales_are_judged_as_any_other(tmp_path, size):
    np.save(tmp_path / "h.npy", size * np.diag([1.0, -0.5]))
    assert np.array_equal(load_hessian(tmp_path / "h.npy"), size * np.diag([1.0, -0.5]))
