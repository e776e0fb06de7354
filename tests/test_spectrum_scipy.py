"""SciPy's matrices and operators wherever a Hessian is; large sparse files; eigenvectors as eigsh's."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
import scipy.io
import scipy.sparse
from registry import backends
from scipy.sparse.linalg import LinearOperator, eigsh
from test_spectrum_command import read, run

import psgd_core as psgd
from psgd_analysis import problems, spectrum

plain = backends(lambda b: not b.jitted)


def chain(n, corner=0.0):
    """A second difference, its eigenvalues known in closed form; with a large entry in the corner."""
    middle, beside = 2 * np.ones(n), -np.ones(n - 1)
    middle[0] += corner
    return scipy.sparse.diags_array([beside, middle, beside], offsets=[-1, 0, 1]).tocsr()


def symmetric(n, seed=0):
    a = np.random.default_rng(seed).standard_normal((n, n))
    return a + a.T


# -- wherever a Hessian is ---------------------------------------------------------------------------------


STUDIES = {
    "eigenvalues": spectrum.eigenvalues,
    "ends": lambda h: spectrum.extreme_eigenvalues(h, np.random.default_rng(0), 2).largest,
    "density": lambda h: spectrum.density(h, np.random.default_rng(0), probes=2, steps=5).density,
    "trace": lambda h: spectrum.trace(h, np.random.default_rng(0)).value,
    "diagonal": lambda h: spectrum.diagonal(h, np.random.default_rng(0)).value,
    "damped": lambda h: spectrum.damped(h, 0.1).dense(),
    "compare": lambda h: spectrum.compare(h, [psgd.XMat(), psgd.Diagonal()]).criteria,
    "groups": lambda h: spectrum.group_study(h).criteria,
    "ranks": lambda h: spectrum.rank_study(h, (0, 1)).best_criterion,
    "order": lambda h: spectrum.best_order(h, psgd.PermutationSubgroup.flip(8)).order,
    "fit": lambda h: spectrum.fit(h, psgd.Diagonal(), np.random.default_rng(0), products=8).q.blocks[0],
    "lanczos": lambda h: spectrum.lanczos(h, np.ones(8), 3).alpha,
    "preconditioned": lambda h: spectrum.preconditioned(h, np.eye(8)).dense(),
}

KINDS = {
    "csr_array": scipy.sparse.csr_array,
    "coo_matrix": scipy.sparse.coo_matrix,
    "operator": lambda h: LinearOperator(h.shape, matvec=lambda v: h @ v, dtype=h.dtype),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", STUDIES)
def test_every_study_takes_them(name, kind):
    h = symmetric(8) * (np.abs(symmetric(8, 1)) > 0.5)
    np.testing.assert_allclose(STUDIES[name](KINDS[kind](h)), STUDIES[name](h), rtol=1e-9, atol=1e-12)


def test_dtypes_are_kept_or_made_float64():
    h = np.array([[2, 1], [1, -3]])
    assert spectrum.as_operator(scipy.sparse.csr_array(h)).like.dtype == np.float64
    assert spectrum.as_operator(scipy.sparse.csr_array(h.astype(np.float32))).like.dtype == np.float32
    single = LinearOperator((2, 2), matvec=lambda v: h @ v, dtype=np.float32)
    assert spectrum.as_operator(single).dense().dtype == np.float32


def test_a_fitted_preconditioner_is_an_operator_too():
    p = psgd.XMat()
    state = p.init(6, like=np.zeros(1), scale=2.0)
    found = spectrum.eigenvalues(psgd.adapters.scipy.as_linear_operator(p, state))
    np.testing.assert_allclose(found, np.full(6, 4.0))


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (scipy.sparse.csr_array(np.ones((2, 3))), ValueError, r"square, \(n, n\), got shape \(2, 3\)"),
        (scipy.sparse.csr_array(np.triu(np.ones((3, 3)))), ValueError, "`matrix` must be symmetric"),
        (scipy.sparse.csr_array(np.diag([1.0, np.nan])), ValueError, "`matrix` must be finite"),
        (scipy.sparse.csr_array(np.eye(2) * 1j), TypeError, "must hold real numbers, got complex128"),
        (LinearOperator((2, 3), matvec=lambda v: v[:2]), ValueError, r"`operator` must be square"),
        (LinearOperator((2, 2), matvec=lambda v: 1j * v), TypeError, "real numbers, got complex128"),
    ],
)
def test_what_is_no_hessian(given, error, message):
    with pytest.raises(error, match=message):
        spectrum.eigenvalues(given)


# -- symmetric, and the same again -------------------------------------------------------------------------


@plain
def test_products_that_are_not_symmetric_are_refused_in_the_first(backend):
    for h in (np.triu(np.ones((30, 30))), symmetric(30) + 0.3 * np.tri(30)):
        given = backend.asarray(h)
        op = spectrum.from_hvp(lambda v, given=given: given @ v, 30, given, columns=True)
        with pytest.raises(ValueError, match="must be those of a symmetric matrix, got u"):
            op.hvp(backend.asarray(np.eye(30)[:, :1]))
    with pytest.raises(ValueError, match="must be those of a symmetric matrix"):
        spectrum.trace(LinearOperator((30, 30), matvec=lambda v: h @ v), np.random.default_rng(0))


@pytest.mark.parametrize("power", [-300, -20, 0, 20, 300])
def test_symmetric_products_pass_at_any_scale_and_from_differences(power):
    h = 10.0**power * symmetric(30)
    v = np.random.default_rng(0).standard_normal(30)
    noise = 1e-7 * np.random.default_rng(1).standard_normal((30, 30)) * np.abs(h).max()
    for matrix in (h, h + noise):
        op = spectrum.from_hvp(lambda v, m=matrix: m @ v, 30, h)
        np.testing.assert_allclose(op.hvp(v), matrix @ v)


def test_losses_in_float32_pass():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(20, 30), torch.nn.ReLU(), torch.nn.Linear(30, 10))
    x, y = torch.randn(64, 20), torch.randint(10, (64,))
    op = spectrum.from_torch(lambda: torch.nn.functional.cross_entropy(model(x), y), model)
    for e in torch.eye(op.n)[:3]:
        op.hvp(e)


# -- eigenvectors ------------------------------------------------------------------------------------------


@plain
@pytest.mark.parametrize("n", [20, 300])
def test_eigenvectors_follow_eigsh(n, backend):
    """300 goes by Lanczos: isolated ends, so that single precision finds them too."""
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.standard_normal((n, n)))[0]
    w = np.concatenate([[-9.0, -6.0], np.linspace(-1, 1, n - 5), [4.0, 6.0, 9.0]])
    h = (basis * w) @ basis.T
    given = backend.asarray((h + h.T) / 2)
    op = spectrum.from_hvp(lambda v: given @ v, n, given, columns=True)
    ends = spectrum.extreme_eigenvalues(op, np.random.default_rng(0), 2)
    tolerance = 300 * backend.eps
    for which, values, vectors, errors in (
        ("SA", ends.smallest, ends.smallest_vectors, ends.smallest_error),
        ("LA", ends.largest, ends.largest_vectors, ends.largest_error),
    ):
        assert backend.dtype_name in str(vectors.dtype)
        x = backend.numpy(vectors).astype(float)
        assert x.shape == (n, 2)
        expected, columns = eigsh(h, 2, which=which)
        order = np.argsort(expected)
        np.testing.assert_allclose(values, expected[order], rtol=tolerance)
        np.testing.assert_allclose(np.abs(np.sum(columns[:, order] * x, axis=0)), 1, atol=tolerance)
        np.testing.assert_allclose(x.T @ x, np.eye(2), atol=tolerance)
        assert np.all(x[np.argmax(np.abs(x), axis=0), [0, 1]] > 0)
        np.testing.assert_allclose(errors, np.linalg.norm(h @ x - x * values, axis=0), atol=9 * tolerance)
        assert np.all(errors < 9 * tolerance)


def test_eigenvectors_in_the_files_of_the_command(tmp_path):
    h = symmetric(12)
    np.save(tmp_path / "h.npy", h)
    result = run(tmp_path / "out", "--hessian", tmp_path / "h.npy", "--eigenvectors", 2)
    assert result.exit_code == 0, result.output
    assert "spectrum.npz" in result.stdout
    with np.load(tmp_path / "out" / "spectrum.npz", allow_pickle=False) as found:
        w, v = np.linalg.eigh(h)
        np.testing.assert_allclose(found["values"], w[[0, 1, -2, -1]])
        np.testing.assert_allclose(np.abs(np.sum(found["vectors"] * v[:, [0, 1, -2, -1]], axis=0)), 1)
        assert found["residuals"].shape == (4,)
    ends = read(tmp_path / "out")["studies"]["ends"]
    assert ends["largest_vectors"] == "in spectrum.npz"
    np.testing.assert_allclose(ends["largest"], w[-2:])
    result = run(tmp_path / "none", "--hessian", tmp_path / "h.npy", "--eigenvectors", 0)
    assert "ends" not in read(tmp_path / "none")["studies"]
    assert not (tmp_path / "none" / "spectrum.npz").exists()


def test_eigenvectors_in_a_dictionary():
    ends = spectrum.extreme_eigenvalues(symmetric(5), np.random.default_rng(0), 1)
    assert np.shape(json.loads(json.dumps(ends.as_dict()))["largest_vectors"]) == (5, 1)


# -- files -------------------------------------------------------------------------------------------------


def write(path, h, symmetry="symmetric"):
    if path.suffix == ".npz":
        scipy.sparse.save_npz(path, h.tocsc())
        return
    stream = io.BytesIO()
    scipy.io.mmwrite(stream, scipy.sparse.coo_array(h), symmetry=symmetry)
    path.write_bytes(stream.getvalue())


@pytest.mark.parametrize("name", ["h.mtx", "general.mtx", "h.npz"])
def test_large_sparse_files_stay_sparse(tmp_path, name):
    n = problems.files.MAX_SIZE + 1
    h = chain(n, 10.0)
    write(tmp_path / name, h, "general" if name == "general.mtx" else "symmetric")
    found = problems.load_matrix(tmp_path / name)
    assert scipy.sparse.issparse(found)
    assert (found != h).nnz == 0
    op = spectrum.from_file(tmp_path / name)
    v = np.random.default_rng(0).standard_normal((n, 2))
    np.testing.assert_allclose(op.hvp(v), h @ v, atol=1e-13)
    assert op.matrix is None
    with pytest.raises(ValueError, match=r"must have n at most 32768 to be held as a dense matrix"):
        problems.load_hessian(tmp_path / name)


def test_small_sparse_files_are_dense(tmp_path):
    write(tmp_path / "h.mtx", chain(9))
    np.testing.assert_array_equal(problems.load_matrix(tmp_path / "h.mtx"), chain(9).toarray())
    assert problems.load_matrix(tmp_path / "h.mtx", like=np.zeros(1, np.float32)).dtype == np.float32


def test_a_sparse_matrix_comes_in_the_dtype_of_like(tmp_path):
    write(tmp_path / "h.mtx", chain(3000))
    assert problems.load_matrix(tmp_path / "h.mtx", like=np.zeros(1, np.float32)).dtype == np.float32
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    with pytest.raises(ValueError, match="is sparse, and sparse matrices are NumPy's"):
        problems.load_matrix(tmp_path / "h.mtx", like=torch.zeros(1))


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (["1 1 1"], "has 1 entries for 3000 rows, so that some rows are zero"),
        ([f"{i} {i} 1" for i in range(1, 3001)] + ["2 1 5"], "must be symmetric, got max"),
        ([f"{i} {i} 1" for i in range(1, 3001)] + ["7 7 5"], "an entry of it is given twice"),
        ([f"{i} {i} 1e999" for i in range(1, 3001)], "must be finite, got 3000 NaN or infinite"),
    ],
)
def test_large_files_that_are_no_hessian(tmp_path, entries, message):
    head = f"%%MatrixMarket matrix coordinate real general\n3000 3000 {len(entries)}\n"
    (tmp_path / "h.mtx").write_text(head + "".join(f"{line}\n" for line in entries))
    with pytest.raises(ValueError, match=message):
        problems.load_matrix(tmp_path / "h.mtx")


def test_the_command_on_a_file_beyond_any_dense_matrix(tmp_path):
    n = problems.files.MAX_SIZE + 2
    write(tmp_path / "chain.mtx", chain(n, 10.0))
    quick = ["--probes", "1", "--steps", "10", "--eigenvectors", "0"]
    result = run(tmp_path / "out", "--hessian", tmp_path / "chain.mtx", quick=quick)
    assert result.exit_code == 0, result.output
    data = read(tmp_path / "out")
    assert data["n"] == n
    assert set(data["studies"]) == {"density"}
    low, high = data["studies"]["density"]["extremes"]
    assert 0 < low < 0.5
    assert 3 < high < 13
