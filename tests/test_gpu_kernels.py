"""The GPU's kernels compile, and do on an emulator what the plain code does; on a GPU, where there is one."""

import array_api_compat
import numpy as np
import nvrtc
import pytest
from emulated import COMPILER, Emulator, Host, OnDevice
from gpu_kernels import orbit_kernels
from hypothesis import given, settings
from hypothesis import strategies as st

import psgd_core as psgd
from psgd_core import PermutationSubgroup, kernels
from psgd_core.kernels import _cuda, gpu, gpu_orbits

KINDS = {
    "diagonal": lambda n: psgd.Diagonal(),
    "xmat": lambda n: psgd.XMat(),
    "butterfly": lambda n: psgd.Butterfly(),
    "klein": lambda n: psgd.Sparse(PermutationSubgroup.klein(n)),
    "thirds": lambda n: psgd.Sparse(PermutationSubgroup.on_blocks(n, [(1, 2, 0)])),
    "uneven": lambda n: psgd.Sparse(PermutationSubgroup.from_generators([[1, 2, 0, *range(3, n)]])),
    "sample": lambda n: psgd.XMat(normalizer=psgd.normalizers.Sample()),
    "undamped": lambda n: psgd.XMat(damping=0.0),
    "much-damped": lambda n: psgd.Sparse(PermutationSubgroup.klein(n), damping=0.3),
}
MULTIPLE = {"butterfly": 2, "klein": 4, "much-damped": 4, "thirds": 3}
LEAST = {"uneven": 3}
DTYPES = ("float32", "float64")
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="the emulator needs g++")
needs_nvrtc = pytest.mark.skipif(nvrtc.library() is None, reason="NVRTC is not installed")


@needs_nvrtc
@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
def test_every_kernel_compiles_to_machine_code(architecture):
    names = orbit_kernels()
    code = nvrtc.compile_for(architecture, _cuda.source("orbits.cu"), tuple(names), _cuda.OPTIONS)
    assert code[:4] == b"\x7fELF"


@needs_nvrtc
@pytest.mark.parametrize("architecture", ["compute_80", "compute_90"])
def test_wide_kernels_access_16_bytes_at_once(architecture):
    names = ("inspect<float, 4>", "move<float, 1, 1, 4, false>", "precondition<double, 1, 1, 2>")
    text = nvrtc.compile_for(architecture, _cuda.source("orbits.cu"), names, _cuda.OPTIONS).decode()
    for access in ("ld.global.nc.v4.f32", "st.global.v4.f32", "ld.global.nc.v2.f64", "st.global.v2.f64"):
        assert access in text, access
    assert f".target sm_{architecture[-2:]}" in text


@pytest.fixture(scope="module")
def orbits(tmp_path_factory):
    """The kernels of orbits.cu, emulated."""
    return Emulator(tmp_path_factory.mktemp("orbits"), "orbits.cu", orbit_kernels())


@pytest.fixture
def host(orbits, monkeypatch):
    """A device with small blocks, so that few orbits take several, and threads several orbits."""
    found = Host()
    orbits.schedule = 0
    orbits.launched.clear()
    monkeypatch.setattr(_cuda, "compiled", orbits.compiled)
    monkeypatch.setattr(_cuda, "library_of", lambda x: found if isinstance(x, OnDevice) else None)
    monkeypatch.setattr(_cuda, "THREADS", 8)
    monkeypatch.setattr(_cuda, "BLOCKS", 1)
    yield found
    gpu_orbits.general.cache_clear()
    gpu_orbits.special.cache_clear()
    assert found.intact(), "something was written beside an array"


def fitting(kind, n):
    """Return the next n that the preconditioner has."""
    return max(n + -n % MULTIPLE.get(kind, 1), LEAST.get(kind, 1))


def pairs(n, dtype, count, seed):
    """Return pairs of an indefinite Hessian with a condition number of about 10."""
    rng = np.random.default_rng(seed)
    vectors = np.linalg.qr(rng.standard_normal((n, n)))[0]
    hessian = (vectors * rng.choice([-1, 1], n) * 10 ** rng.uniform(-0.5, 0.5, n)) @ vectors.T
    probes = rng.standard_normal((count, n))
    return [(v.astype(dtype), (hessian @ v).astype(dtype)) for v in probes]


def leaves(state):
    """Return all arrays of a state."""
    return [x for part in state for x in (leaves(part) if isinstance(part, tuple) else [part])]


def plain(p, state, *args, **kwargs):
    """Return an update by the plain code."""
    with kernels.off(), np.errstate(all="ignore"):
        return p.update(state, *args, **kwargs)


def assert_same_bits(got, expected):
    for x, y in zip(leaves(got), leaves(expected), strict=True):
        assert x.dtype == y.dtype
        assert x.tobytes() == y.tobytes()


def assert_equal_to_rounding(got, expected, updates):
    """Compare states: each update adds a few roundings of the largest entry of its block."""
    for x, y in zip(leaves(got), leaves(expected), strict=True):
        assert type(x) is OnDevice
        assert x.dtype == y.dtype
        if np.issubdtype(y.dtype, np.floating):
            tolerance = 100 * updates * np.finfo(y.dtype).eps
            np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance * np.max(np.abs(y)))
        else:
            np.testing.assert_array_equal(x, y)


@needs_compiler
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [12, 61])
def test_updates_and_products_are_those_of_the_plain_code(kind, dtype, n, host, orbits):
    n = fitting(kind, n)
    p, made = KINDS[kind](n), pairs(n, dtype, 12, seed=n)
    expected = p.init(n, like=made[0][0])
    state = host.state(expected)
    for v, h in made:
        orbits.launched.clear()
        state = p.update(state, host.place(v), host.place(h), 0.3)
        expected = plain(p, expected, v, h, 0.3)
        assert orbits.launched[0].startswith("inspect")
    assert_equal_to_rounding(state, expected, 12)
    g = made[0][1]
    with kernels.off():
        product = p.precondition(expected, g)
    got = p.precondition(host.state(expected), host.place(g))
    np.testing.assert_allclose(got, product, rtol=0, atol=50 * np.finfo(dtype).eps * np.max(np.abs(product)))
