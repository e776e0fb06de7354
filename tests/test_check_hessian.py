"""`check_hessian` on nearly singular input: what rounding explains is told from what it does not."""

from __future__ import annotations

import numpy as np
import pytest

from psgd_core import criterion

INVERTIBLE = "`hessian` must be invertible"


def with_eigenvalues(values, seed=0):
    basis = np.linalg.qr(np.random.default_rng(seed).standard_normal((len(values), len(values))))[0]
    h = basis @ np.diag(values) @ basis.T
    return (h + h.T) / 2


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("n", [2, 5, 20])
@pytest.mark.parametrize("scale", [1.0, 2.0**-60, 2.0**60])
def test_the_least_eigenvalue_may_be_n_eps_of_the_largest(backend, n, sign, scale):
    """On diagonal matrices, whose eigenvalues no library has to round."""
    for share, accepted in ((0.25, False), (0.75, False), (1.5, True), (4.0, True), (1e3, True)):
        h = np.diag(scale * np.array([1.0, *[0.5] * (n - 2), sign * share * n * backend.eps]))
        if accepted:
            criterion.check_hessian(backend.asarray(h))
        else:
            with pytest.raises(ValueError, match=INVERTIBLE):
                criterion.check_hessian(backend.asarray(h))


@pytest.mark.parametrize("n", [20, 30])
@pytest.mark.parametrize("seed", range(3))
def test_a_singular_matrix_stays_singular_when_it_is_rotated(backend, n, seed):
    """Its least eigenvalue is rounded then, to an eps or two of the largest, where n eps are allowed."""
    values = np.geomspace(1, 10, n) * (-1) ** np.arange(n)
    h = with_eigenvalues(np.where(np.arange(n) == n // 2, 0.0, values), seed)
    with pytest.raises(ValueError, match=INVERTIBLE):
        criterion.check_hessian(backend.asarray(h))
    ill = 1e3 * n * backend.eps * 10
    criterion.check_hessian(
        backend.asarray(with_eigenvalues(np.where(values == values[3], ill, values), seed))
    )
    # on the orbits of a group its columns may well be independent
    pairs = np.arange(n).reshape(2, -1)
    criterion.check_hessian(backend.asarray(h), [pairs])


def test_every_orbit_is_held_against_itself(backend):
    """Orbits of very different scale are no singular matrix; one of them that is singular is told."""
    small = 2.0**-40
    h = np.diag([1.0, -2.0, small, 3 * small, 1.5])
    orbits = [np.array([[0, 2], [1, 3]]), np.array([[4]])]
    criterion.check_hessian(backend.asarray(h), orbits)
    h[3, 3] = small * backend.eps
    with pytest.raises(ValueError, match=INVERTIBLE):
        criterion.check_hessian(backend.asarray(h), orbits)
    h[3, 3], h[4, 4] = small, 0.0
    with pytest.raises(ValueError, match=INVERTIBLE):
        criterion.check_hessian(backend.asarray(h), orbits)


@pytest.mark.parametrize("n", [4, 16])
def test_rounding_is_no_reason_to_refuse_a_covariance_or_a_symmetric_matrix(backend, n):
    rng = np.random.default_rng(n)
    h = with_eigenvalues(np.geomspace(1, 10, n) * (-1) ** np.arange(n))
    root = rng.standard_normal((n, 2))
    low_rank = (root @ root.T).astype(backend.dtype_name)
    assert np.linalg.matrix_rank(low_rank) == 2
    criterion.check_hessian(backend.asarray(h), noise=backend.asarray(low_rank))
    negative = low_rank - 1e4 * backend.eps * np.trace(low_rank) * np.eye(n)
    with pytest.raises(ValueError, match="`noise` must be a covariance"):
        criterion.check_hessian(backend.asarray(h), noise=backend.asarray(negative))
    skew = np.zeros((n, n))
    skew[0, 1] = backend.eps * abs(h).max()
    criterion.check_hessian(backend.asarray(h + 8 * skew))
    with pytest.raises(ValueError, match="`hessian` must be symmetric"):
        criterion.check_hessian(backend.asarray(h + 1000 * skew))
