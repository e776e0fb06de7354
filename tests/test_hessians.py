"""Hessian families, curvature pairs and Hessian files, against NumPy's eigenvalues and exact moments."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.io
import scipy.sparse
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from psgd_analysis import problems
from psgd_analysis.problems import hessians
from psgd_analysis.problems.spectra import KINDS, haar, spectrum

COMMON = settings(
    deadline=None,
    derandomize=True,
    max_examples=25,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def condition(h):
    magnitudes = np.abs(np.linalg.eigvalsh(np.asarray(h, dtype=float)))
    return magnitudes.max() / magnitudes.min()


def orbit_table(orbits):
    """Orbits as lists to the (s, count) arrays of the groups module."""
    sizes = sorted({len(orbit) for orbit in orbits})
    return [np.array([orbit for orbit in orbits if len(orbit) == s]).T for s in sizes]


def partition(n, rng):
    """A random partition of range(n) in sets of 1 to 5."""
    members, orbits = rng.permutation(n).tolist(), []
    while members:
        s = int(rng.integers(1, 6))
        orbits.append(members[:s])
        members = members[s:]
    return orbits


# -- spectra -------------------------------------------------------------------------------------------------


@given(
    n=st.integers(1, 60),
    kappa=st.floats(1.0, 1e8),
    kind=st.sampled_from(KINDS),
    indefinite=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
@COMMON
def test_spectrum_keeps_its_promises(n, kappa, kind, indefinite, seed):
    eigenvalues = spectrum(n, kappa, np.random.default_rng(seed), kind=kind, indefinite=indefinite)
    magnitudes = np.abs(eigenvalues)
    assert eigenvalues.shape == (n,)
    assert np.all(np.diff(magnitudes) >= 0)
    assert np.isclose(np.mean(np.log(magnitudes)), 0.0, atol=1e-13 * n)
    if n > 1:
        assert np.isclose(magnitudes[-1] / magnitudes[0], kappa, rtol=1e-12)
    negative = np.sum(eigenvalues < 0)
    if indefinite:
        assert negative >= 1
        assert negative < n or n == 1
    else:
        assert negative == 0


def test_shapes_of_spectra(rng):
    n, kappa = 40, 1e4
    ratios = np.diff(np.log(spectrum(n, kappa, rng)))
    assert np.allclose(ratios, np.log(kappa) / (n - 1))
    linear = spectrum(n, kappa, rng, kind="linear")
    assert np.allclose(np.diff(linear), linear[1] - linear[0])
    power = spectrum(n, kappa, rng, kind="power")[::-1]
    assert np.allclose(np.log(power / power[0]), -np.log(kappa) / np.log(n) * np.log(np.arange(1, n + 1)))
    gaps = np.diff(np.log(spectrum(n, kappa, rng, kind="clustered")))
    assert np.sum(gaps > 0.5 * np.log(kappa) / 3) == 3
    tails = spectrum(n, kappa, rng, kind="two_tails")
    assert np.sum(np.isclose(tails, 1.0)) == n - 2 * 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 0, "kappa": 2.0}, "`n` must be an integer of at least 1, got 0"),
        ({"n": True, "kappa": 2.0}, "`n` must be an integer of at least 1, got True"),
        ({"n": 3, "kappa": 0.5}, "`kappa` must be a finite condition number of at least 1, got 0.5"),
        ({"n": 3, "kappa": np.inf}, "`kappa` must be a finite condition number"),
        ({"n": 3, "kappa": 2.0, "kind": "flat"}, "`kind` must be one of log, .*random, got 'flat'"),
    ],
)
def test_spectrum_refuses(arguments, message, rng):
    with pytest.raises(ValueError, match=message):
        spectrum(rng=rng, **arguments)


@pytest.mark.parametrize(("n", "columns", "batch"), [(1, None, ()), (5, None, (3,)), (6, 2, ())])
def test_haar_columns_are_orthonormal(n, columns, batch, rng):
    q = haar(n, rng, columns, batch)
    k = n if columns is None else columns
    assert q.shape == (*batch, n, k)
    assert np.allclose(np.swapaxes(q, -1, -2) @ q, np.eye(k), atol=1e-14)


def test_haar_is_balanced(rng):
    # Without the sign fix the first entry of a column has one sign almost always.
    corner = haar(2, rng, batch=(4000,))[:, 0, 0]
    assert abs(np.mean(corner)) < 5 * np.sqrt(0.5 / 4000)


# -- families ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("indefinite", [False, True])
def test_dense(backend, rng, indefinite):
    like = backend.asarray(np.zeros(1))
    h = hessians.dense(9, 100.0, rng, indefinite=indefinite, like=like)
    assert h.dtype == backend.dtype
    host = backend.numpy(h).astype(float)
    assert np.array_equal(host, host.T)
    assert np.isclose(condition(host), 100.0, rtol=100 * 30 * backend.eps)
    eigenvalues = np.linalg.eigvalsh(host)
    assert (eigenvalues[0] < 0) == indefinite
    assert eigenvalues[-1] > 0
    assert np.min(np.abs(host)) > 0


@pytest.mark.parametrize("n", [1, 2, 3])
def test_smallest_sizes(n, rng):
    orbits = [np.arange(n)[:, None]]
    for indefinite in (False, True):
        for h in (hessians.dense(n, 10.0, rng, indefinite=indefinite),
                  hessians.in_group(orbits, n, 10.0, rng, indefinite=indefinite)):  # fmt: skip
            eigenvalues = np.linalg.eigvalsh(h)
            assert (eigenvalues[0] < 0) == indefinite
            assert n == 1 or eigenvalues[-1] > 0
            assert np.isclose(condition(h), 10.0 if n > 1 else 1.0)


@given(n=st.integers(2, 40), indefinite=st.booleans(), seed=st.integers(0, 2**32 - 1))
@COMMON
def test_in_group_has_the_groups_structure(n, indefinite, seed):
    rng = np.random.default_rng(seed)
    orbits = partition(n, rng)
    h = hessians.in_group(orbit_table(orbits), n, 100.0, rng, indefinite=indefinite)
    allowed = np.zeros((n, n), dtype=bool)
    for orbit in orbits:
        allowed[np.ix_(orbit, orbit)] = True
    assert np.all(h[~allowed] == 0)
    assert np.array_equal(h, h.T)
    assert np.isclose(condition(h), 100.0, rtol=1e-9)
    singles = [h[orbit[0], orbit[0]] for orbit in orbits if len(orbit) == 1]
    for orbit in orbits:
        block = h[np.ix_(orbit, orbit)]
        if len(orbit) == 1:
            continue
        eigenvalues = np.linalg.eigvalsh(block)
        if indefinite:
            assert eigenvalues[0] < 0 < eigenvalues[-1]
        else:
            assert eigenvalues[0] > 0
        # At least half its share log κ (1 - 1/s), less one place for the ties.
        assert condition(block) > 100.0 ** (0.5 * (1 - 1 / len(orbit)) - 1 / (n - 1))
        assert np.max(np.abs(block - np.diag(np.diag(block)))) > 1e-3 * np.max(np.abs(block))
    if indefinite and len(singles) > 1:
        assert min(singles) < 0 < max(singles)


def test_pairs_of_flip_are_far_from_diagonal(backend, rng):
    n = 21
    orbits = [np.array([[10]]), np.stack([np.arange(10), n - 1 - np.arange(10)])]
    like = backend.asarray(np.zeros(1))
    h = backend.numpy(hessians.in_group(orbits, n, 1e3, rng, indefinite=True, like=like)).astype(float)
    assert np.all(h[(np.eye(n) + np.eye(n)[::-1]) == 0] == 0)
    assert np.isclose(condition(h), 1e3, rtol=1e3 * 10 * backend.eps)
    for i in range(10):
        block = h[np.ix_([i, n - 1 - i], [i, n - 1 - i])]
        assert abs(block[0, 1]) > 0.2 * np.max(np.abs(block))
        assert np.linalg.det(block) < 0
        assert np.isclose(condition(block), 1e3 ** (11 / 20), rtol=1e3 * 10 * backend.eps)


@pytest.mark.parametrize(
    "orbits", [[], [np.array([[0, 1]])], [np.array([[0], [0], [1]])], [np.array([[1], [2], [3]])]]
)
def test_in_group_refuses(orbits, rng):
    with pytest.raises(ValueError, match=r"`orbit_index` must hold each of 0 ... 2 exactly once, got"):
        hessians.in_group(orbits, 3, 10.0, rng)


@given(
    n=st.integers(2, 25),
    r=st.integers(0, 3),
    kappa=st.sampled_from([2.0, 10.0, 1e4]),
    diagonal=st.sampled_from(["right", "left"]),
    seed=st.integers(0, 2**32 - 1),
)
@COMMON
def test_low_rank_target_is_one(n, r, kappa, diagonal, seed):
    r = min(r, n - 1)
    h, u, v, d = hessians.low_rank_target(n, r, kappa, np.random.default_rng(seed), diagonal=diagonal)
    assert u.shape == v.shape == (n, r)
    q = (np.eye(n) + u @ v.T) * d if diagonal == "right" else d[:, None] * (np.eye(n) + u @ v.T)
    assert np.allclose(h @ (q.T @ q), np.eye(n), atol=1e-13 * kappa * n)
    assert np.isclose(condition(h), kappa, rtol=1e-6)
    assert np.linalg.eigvalsh(h)[0] > 0
    if r:
        # Both factors matter: neither is near the identity.
        assert np.linalg.cond(np.eye(n) + u @ v.T) > kappa**0.1
        assert np.isclose(np.max(d) / np.min(d), kappa**0.25, rtol=1e-9)


def test_low_rank_target_on_every_library(backend, rng):
    target = hessians.low_rank_target(8, 2, 10.0, rng, like=backend.asarray(np.zeros(1)))
    h, u, v, d = (backend.numpy(x).astype(float) for x in target)
    assert all(x.dtype == backend.dtype for x in target)
    q = (np.eye(8) + u @ v.T) * d
    assert np.allclose(h @ (q.T @ q), np.eye(8), atol=10 * 8 * backend.eps)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 3, "r": 3}, "`r` must be below `n`, 3, got 3"),
        ({"n": 3, "r": -1}, "`r` must be an integer of at least 0, got -1"),
        ({"n": 3, "r": 1, "diagonal": "middle"}, "`diagonal` must be one of right, left, got 'middle'"),
    ],
)
def test_low_rank_target_refuses(arguments, message, rng):
    with pytest.raises(ValueError, match=message):
        hessians.low_rank_target(kappa=10.0, rng=rng, **arguments)


@pytest.mark.parametrize(("leading", "trailing"), [(1, 1), (2, 1), (0, 2), (3, 3), (3, 0), (0, 0), (7, 3)])
@pytest.mark.parametrize("indefinite", [False, True])
def test_two_tails(leading, trailing, indefinite, rng):
    n, rho, gap = 10, 0.5, 400.0
    h, u, v, d = hessians.two_tails(n, leading, trailing, rng, gap=gap, rho=rho, indefinite=indefinite)
    eigenvalues, vectors = np.linalg.eigh(h)
    magnitudes = np.sort(np.abs(eigenvalues)) * rho**2
    assert np.sum(magnitudes > 1.5) == leading
    assert np.sum(magnitudes < 1 / 1.5) == trailing
    assert np.allclose(magnitudes[trailing : n - leading], 1.0)
    if leading:
        assert np.isclose(magnitudes[-1], gap)
    if trailing:
        assert np.isclose(magnitudes[0], 1 / gap)
    assert (eigenvalues[0] < 0) == (indefinite and leading + trailing > 0)
    assert u.shape == v.shape == (n, max(leading, trailing))
    q = (np.eye(n) + u @ v.T) * d
    inverse = (vectors / np.abs(eigenvalues)) @ vectors.T
    # The inverse from eigenvalues errs by eps κ |H^{-1}|.
    assert np.allclose(q.T @ q, inverse, rtol=0, atol=10 * 2.2e-16 * gap**2 * gap * rho**2)
    assert np.all(d == rho)


def test_two_tails_on_every_library(backend, rng):
    target = hessians.two_tails(8, 1, 1, rng, gap=10.0, like=backend.asarray(np.zeros(1)))
    h, u, v, d = (backend.numpy(x).astype(float) for x in target)
    assert all(x.dtype == backend.dtype for x in target)
    q = (np.eye(8) + u @ v.T) * d
    assert np.allclose(q.T @ q @ h, np.eye(8), atol=100 * 8 * backend.eps)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"leading": 2, "trailing": 2}, r"`leading` \+ `trailing` must be at most `n`, 3, got 4"),
        ({"leading": -1, "trailing": 2}, "`leading` must be an integer of at least 0"),
        ({"leading": 1, "trailing": 1, "gap": 1.0}, "`gap` must be finite and above 1, got 1.0"),
        ({"leading": 1, "trailing": 1, "rho": 0.0}, "`rho` must be finite and positive, got 0.0"),
    ],
)
def test_two_tails_refuses(arguments, message, rng):
    with pytest.raises(ValueError, match=message):
        hessians.two_tails(n=3, rng=rng, **arguments)


def test_drifting_adds_rank_one(backend, rng):
    h0 = backend.asarray(np.diag([1.0, 2.0, 3.0, 4.0, 5.0]))
    series = [backend.numpy(h) for h in itertools.islice(hessians.drifting(h0, rng, scale=0.7), 4)]
    assert np.array_equal(series[0], np.diag([1.0, 2.0, 3.0, 4.0, 5.0]))
    for before, after in itertools.pairwise(series):
        eigenvalues = np.linalg.eigvalsh((after - before).astype(float))
        assert eigenvalues[-1] > 1e-3
        assert np.all(np.abs(eigenvalues[:-1]) < 100 * backend.eps)


def test_drift_has_its_scale(rng):
    steps = itertools.islice(hessians.drifting(np.zeros((5, 5)), rng, scale=0.7), 2001)
    *_, last = steps
    assert np.isclose(np.trace(last) / 2000, 0.49, rtol=5 * np.sqrt(2 / (5 * 2000)))


# -- pairs ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["gaussian", "rademacher", "orthogonal"])
def test_probes_are_white(kind, rng):
    n, k = 5, 20_000
    v = problems.probes(n, rng, k, kind=kind)
    assert v.shape == (n, k)
    assert np.allclose(v @ v.T / k, np.eye(n), atol=5 * np.sqrt(2 / k))
    if kind == "rademacher":
        assert set(np.unique(v)) == {-1.0, 1.0}
    if kind == "orthogonal":
        block = v[:, :n]
        assert np.allclose(block.T @ block, n * np.eye(n), atol=1e-13)
        assert np.allclose(v @ v.T / k, np.eye(n), atol=1e-12)
        assert problems.probes(n, rng, 7, kind=kind).shape == (n, 7)


@pytest.mark.parametrize("k", [None, 1, 4])
def test_pairs_follow_the_hessian(backend, rng, k):
    h = backend.asarray(rng.standard_normal((6, 6)))
    got = problems.pairs(h, rng, k, probe="rademacher")
    shape = (6,) if k is None else (6, k)
    assert backend.numpy(got.v).shape == backend.numpy(got.h).shape == shape
    assert got.v.dtype == got.h.dtype == backend.dtype
    expected = backend.numpy(h).astype(float) @ backend.numpy(got.v).astype(float)
    assert np.allclose(backend.numpy(got.h), expected, atol=50 * backend.eps)


def test_pairs_are_the_same_on_every_library(backend):
    h = np.diag([1.0, -2.0, 3.0])
    root = np.array([[1.0, 0.0], [0.5, 1.0], [0.0, 2.0]])
    here = problems.pairs(backend.asarray(h), np.random.default_rng(5), 3, noise_root=backend.asarray(root))
    host = problems.pairs(h, np.random.default_rng(5), 3, noise_root=root)
    assert np.allclose(backend.numpy(here.v), host.v, rtol=backend.eps)
    assert np.allclose(backend.numpy(here.h), host.h, atol=30 * backend.eps)


def test_noise_has_its_covariance(rng):
    h = np.zeros((3, 3))
    root = np.array([[1.0, 0.0], [0.5, 1.0], [0.0, 2.0]])
    k = 40_000
    noise = problems.pairs(h, rng, k, noise_root=root).h
    assert np.allclose(noise @ noise.T / k, root @ root.T, atol=5 * 4 * np.sqrt(2 / k))
    assert problems.pairs(h, rng, noise_root=root).h.shape == (3,)


@pytest.mark.parametrize("m", [None, 1, 5, 7])
@pytest.mark.parametrize("turned", [False, True])
def test_exact_pairs_have_exact_moments(backend, rng, m, turned):
    n = 7
    h = backend.asarray(rng.standard_normal((n, n)))
    root = None if m is None else backend.asarray(rng.standard_normal((n, m)))
    got = problems.exact_pairs(h, rng if turned else None, noise_root=root)
    v, hv = backend.numpy(got.v).astype(float), backend.numpy(got.h).astype(float)
    k = v.shape[1]
    assert k == (n if m is None else 2 * n)
    assert got.h.dtype == backend.dtype
    host = backend.numpy(h).astype(float)
    second = host @ host.T
    if root is not None:
        second = second + backend.numpy(root).astype(float) @ backend.numpy(root).astype(float).T
    tolerance = 100 * backend.eps
    assert np.allclose(v @ v.T / k, np.eye(n), atol=tolerance)
    assert np.allclose(hv @ v.T / k, host, atol=tolerance * np.linalg.norm(host))
    assert np.allclose(hv @ hv.T / k, second, atol=tolerance * np.linalg.norm(second))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda rng: problems.probes(3, rng, kind="uniform"), "`kind` must be one of gaussian, rademacher"),
        (lambda rng: problems.probes(3, rng, 0), "`k` must be an integer of at least 1, got 0"),
        (lambda rng: problems.probes(0, rng), "`n` must be an integer of at least 1, got 0"),
        (lambda rng: problems.pairs(np.eye(3)[:2], rng), r"`hessian` must have shape \(n, n\), got \(2, 3\)"),
        (
            lambda rng: problems.pairs(np.eye(3), rng, noise_root=np.eye(2)),
            r"`noise_root` must have shape \(3, m\)",
        ),
        (lambda rng: problems.exact_pairs(np.eye(2), noise_root=np.ones((2, 3))), "at most 2 columns, got 3"),
    ],
)
def test_pairs_refuse(call, message, rng):
    with pytest.raises(ValueError, match=message):
        call(rng)


# -- files ---------------------------------------------------------------------------------------------------

H = np.array([[2.0, 1.0, 0.0], [1.0, -3.0, 0.5], [0.0, 0.5, 1.0]])


def write(path, h, **more):
    """Write h in the format of the name."""
    if path.suffix == ".npy":
        np.save(path, h)
    elif path.suffix == ".npz":
        np.savez(path, h=h, **more)
    else:
        scipy.io.mmwrite(path, h)
    return path


@pytest.mark.parametrize("name", ["h.npy", "h.npz", "h.mtx", "H.NPY"])
def test_load_every_format(tmp_path, name, backend):
    path = write(tmp_path / name.lower(), H)
    if name != name.lower():
        path = path.rename(tmp_path / name)
    h = problems.load_hessian(path, like=backend.asarray(np.zeros(1)))
    assert h.dtype == backend.dtype
    assert np.array_equal(backend.numpy(h), H)
    assert np.array_equal(problems.load_hessian(str(path)), H)


def test_load_sparse_and_integers(tmp_path):
    scipy.sparse.save_npz(tmp_path / "sparse.npz", scipy.sparse.csr_matrix(H))
    assert np.array_equal(problems.load_hessian(tmp_path / "sparse.npz"), H)
    scipy.io.mmwrite(tmp_path / "sparse.mtx", scipy.sparse.coo_array(H), symmetry="symmetric")
    assert np.array_equal(problems.load_hessian(tmp_path / "sparse.mtx"), H)
    integers = np.array([[2, 1], [1, 2]])
    assert problems.load_hessian(write(tmp_path / "integers.npy", integers)).dtype == np.float64


def test_load_by_key(tmp_path):
    path = write(tmp_path / "two.npz", H, other=2 * H)
    assert np.array_equal(problems.load_hessian(path, key="other"), 2 * H)
    with pytest.raises(ValueError, match=r"two.npz: holds 2 arrays; choose one with `key`: h, other"):
        problems.load_hessian(path)
    with pytest.raises(ValueError, match=r"two.npz: has no array 'g'; it holds h, other"):
        problems.load_hessian(path, key="g")


def test_rounding_asymmetry_is_averaged(tmp_path):
    h = H + np.array([[0, 1e-7, 0], [0, 0, 0], [0, 0, 0]])
    loaded = problems.load_hessian(write(tmp_path / "h.npy", h))
    assert np.array_equal(loaded, loaded.T)
    assert np.isclose(loaded[0, 1], 1.0 + 0.5e-7, rtol=1e-12)


@pytest.mark.parametrize(
    ("h", "message"),
    [
        (np.ones(3), r"must hold a square matrix, got shape \(3,\)"),
        (np.ones((2, 3)), r"must hold a square matrix, got shape \(2, 3\)"),
        (np.ones((0, 0)), r"must hold a square matrix, got shape \(0, 0\)"),
        (np.array([[1.0, np.nan], [np.nan, np.inf]]), "must be finite, got 3 NaN or infinite entries of 4"),
        (np.array([[1.0, 1j], [-1j, 1.0]]), "must hold real numbers, got complex128"),
        (np.array([["a"]]), "must hold real numbers, got <U1"),
        (np.array([[1.0, 2.0], [0.0, 1.0]]), r"must be symmetric, got max\|H - H\^T\| = 1 max\|H\|"),
        (np.ones((2, 2)), r"is singular to rounding, smallest \|eigenvalue\|"),
        (np.zeros((2, 2)), "is singular to rounding"),
        (np.array([[None]], dtype=object), "is not a valid .npy file"),
    ],
)
def test_load_refuses(tmp_path, h, message):
    path = tmp_path / "bad.npy"
    np.save(path, h, allow_pickle=True)
    with pytest.raises(ValueError, match="bad.npy: " + message) as caught:
        problems.load_hessian(path)
    assert "\n" not in str(caught.value)


def test_singular_matrices_on_request(tmp_path):
    path = write(tmp_path / "ones.npy", np.ones((2, 2)))
    assert np.array_equal(problems.load_hessian(path, singular_ok=True), np.ones((2, 2)))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("h.npy", b"", "is not a valid .npy file"),
        ("h.npy", b"\x93NUMPY\x01\x00", "is not a valid .npy file"),
        ("h.npz", b"not a zip", "is not a valid .npz file"),
        ("h.mtx", b"3 3\n1 2 3", "is not a valid .mtx file"),
        ("h.mtx", b"%%MatrixMarket matrix array real general\n2 2\n1\n2\n", "is not a valid .mtx file"),
        ("h.mtx", b"%%MatrixMarket matrix coordinate real general\n2 3 0\n", "must hold a square matrix"),
        (
            "h.mtx",
            b"%%MatrixMarket matrix coordinate real general\n99999 99999 0\n",
            "must have n at most 32768",
        ),
        ("h.txt", b"1", "the name must end in .npy, .npz, .mtx, .mtx.gz or .mtx.bz2"),
        ("h.npy.gz", b"1", "the name must end in .npy, .npz, .mtx, .mtx.gz or .mtx.bz2"),
    ],
)
def test_load_refuses_content(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name}: {message}") as caught:
        problems.load_hessian(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_load_refuses_truncated(tmp_path):
    path = write(tmp_path / "h.npy", np.eye(50))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"h.npy: is not a valid .npy file"):
        problems.load_hessian(path)


def test_load_refuses_missing_file_and_stray_key(tmp_path):
    for name in ("absent.npy", "absent.npz", "absent.mtx"):
        with pytest.raises(ValueError, match=rf"{name}: cannot be read \(No such file or directory\)"):
            problems.load_hessian(tmp_path / name)
    with pytest.raises(ValueError, match=r"`key` chooses an array of a .npz file, got 'a'"):
        problems.load_hessian(write(tmp_path / "h.npy", H), key="a")


def test_nothing_is_unpickled(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("a pickle was executed",))

    np.savez(tmp_path / "bomb.npz", h=np.array([[Bomb()]], dtype=object))
    with pytest.raises(ValueError, match=r"bomb.npz: is not a valid .npz file"):
        problems.load_hessian(tmp_path / "bomb.npz")
