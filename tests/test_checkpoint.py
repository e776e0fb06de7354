"""Checkpoints: bit-exact round trips and resumed runs on every library, and every way a file can be wrong."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import stat
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import array_api_compat
import numpy as np
import pytest
from forgery import ARRAY, forge, header_of, refused
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import psgd_core as psgd
from psgd_core import checkpoint
from psgd_core.checkpoint import CheckpointError, file, load, save

N = 12

PRECONDITIONERS = [
    psgd.Diagonal(),
    psgd.XMat(),
    psgd.Butterfly(steps="group"),
    psgd.Sparse(psgd.PermutationSubgroup.from_generators([[1, 2, 0, *range(4, 12), 3]])),
    psgd.Dense(),
    psgd.Dense(geometry="QE-symmetric"),  # its Q is not in C order
    psgd.LowRank(rank=3),
    psgd.LowRank(rank=2, diagonal="left", normalizer=psgd.normalizers.Sample()),
]


def pairs(count, n=N, seed=0):
    rng = np.random.default_rng(seed)
    v = rng.standard_normal((count, n))
    return v, v * np.linspace(1.0, 4.0, n) + 0.1 * v[:, ::-1]


def fitter(backend, p):
    """Return a function that goes on fitting a state, compiled once."""
    update = replace(backend, jitted=backend.library == "jax.numpy").jit(
        lambda s, v, h: p.update(s, v, h, step=0.05)
    )

    def fit(state, v, h):
        for vi, hi in zip(v, h, strict=True):
            state = update(state, backend.asarray(vi), backend.asarray(hi))
        return state

    return fit


def leaves(tree):
    if isinstance(tree, dict):
        tree = tuple(tree.values())
    return [x for part in tree for x in leaves(part)] if isinstance(tree, tuple | list) else [tree]


def host(x):
    """Return dtype, shape and bytes: equal exactly when the arrays are the same to the last bit."""
    x = x.get() if array_api_compat.is_cupy_array(x) else np.asarray(x)
    return x.dtype, x.shape, x.tobytes()


def assert_same(a, b):
    assert type(a) is type(b)
    a, b = leaves(a), leaves(b)
    assert len(a) == len(b)
    for x, y in zip(a, b, strict=True):
        if type(x) is int:
            assert type(y) is int
            assert x == y
            continue
        assert array_api_compat.array_namespace(x) is array_api_compat.array_namespace(y)
        assert array_api_compat.device(x) == array_api_compat.device(y)
        assert host(x) == host(y)


@pytest.fixture
def saved(tmp_path):
    """A checkpoint of a fitted XMat on NumPy: (path, state, preconditioner)."""
    p = psgd.XMat()
    state = p.init(N, like=np.zeros(1))
    for v, h in zip(*pairs(5), strict=True):
        state = p.update(state, v, h, step=0.1)
    save(tmp_path / "run.npz", state, config=p, metadata={"seed": 3, "note": ["a", None]})
    return tmp_path / "run.npz", state, p


# -- round trips and resumed runs ----------------------------------------------------------------------


def test_a_resumed_run_ends_on_the_same_bits(backend, tmp_path):
    x = backend.asarray(np.zeros(1))
    v, h = pairs(12)
    few = {"jax": PRECONDITIONERS[:1], "jax-jit": PRECONDITIONERS[6:7]}  # JAX compiles for seconds
    for p in few.get(backend.name[:-4], PRECONDITIONERS):
        fit = fitter(backend, p)
        half = fit(p.init(N, like=x), v[:7], h[:7])
        save(tmp_path / "half.npz", half, config=p)
        resumed = load(tmp_path / "half.npz", like=p.init(N, like=x), config=p)
        assert_same(resumed, half)
        assert_same(load(tmp_path / "half.npz", like=x), half)
        assert_same(fit(resumed, v[7:], h[7:]), fit(half, v[7:], h[7:]))


DESCENTS = [
    {"preset": "deterministic"},
    {"preset": "stochastic", "momentum": 0.5, "preconditioner": psgd.LowRank(1), "probability": 0.5},
    {"preset": "stochastic", "source": psgd.curvature.Secant(), "preconditioner": psgd.Diagonal()},
    {"source": psgd.curvature.Along(every=3, reuse=True), "replay": psgd.Replay(4, 3)},
]


def test_an_interrupted_descent_ends_on_the_same_bits(backend, tmp_path):
    if backend.jitted:
        pytest.skip("minimize compiles for JAX by itself")
    x0, scale = backend.asarray([1.5, -0.5]), backend.asarray([1.0, 10.0])

    def run(options, interrupt_at=None, resume=None):
        def callback(intermediate_result):
            if intermediate_result.nit == interrupt_at:
                raise StopIteration

        return psgd.minimize(
            lambda x: backend.xp.sum(scale * x**4),
            x0,
            grad=lambda x: 4 * scale * x**3,
            hvp=lambda x, v: 12 * scale * x**2 * v,
            tol=0.0,
            maxiter=9,
            callback=callback,
            resume=resume,
            **options,
        )

    for options in DESCENTS[:1] if backend.library == "jax.numpy" else DESCENTS:
        whole, part = run(options), run(options, interrupt_at=5)
        path = tmp_path / "part.npz"
        save(path, part.progress, config=part.optimizer)
        progress = load(path, like=x0, config=whole.optimizer)
        assert_same(load(path, like=whole.progress), part.progress)
        assert progress.nit == part.progress.nit == 5
        resumed = run(options, resume=progress)
        assert_same(resumed.progress[:2], whole.progress[:2])
        assert_same((resumed.x, resumed.jac), (whole.x, whole.jac))
        assert (resumed.fun, resumed.nit) == (whole.fun, whole.nit)
        with pytest.raises(CheckpointError, match=r"its PSGD has clip = .*, got .* in `config`"):
            load(path, like=x0, config=replace(part.optimizer, clip=0.123))


def test_a_state_moves_between_libraries_bit_for_bit(backend, tmp_path, saved):
    path, state, p = saved
    if backend.dtype_name != "float64":
        with pytest.raises(CheckpointError, match=r"is float64, in `like` it is float32.*saved dtype"):
            load(path, like=backend.asarray(np.zeros(1)))
        return
    there = load(path, like=p.init(N, like=backend.asarray(np.zeros(1))))
    save(tmp_path / "back.npz", there, config=p)
    for x, y in zip(leaves(load(tmp_path / "back.npz")), leaves(state), strict=True):
        assert host(x) == host(y)


def test_integers_change_width_where_values_fit(backend, tmp_path):
    save(tmp_path / "i.npz", np.asarray([1, -5, 2**31 - 1]))
    like = backend.xp.zeros(3, dtype=backend.xp.int32)
    assert host(load(tmp_path / "i.npz", like=like)) == host(np.asarray([1, -5, 2**31 - 1], dtype=np.int32))
    save(tmp_path / "i.npz", np.asarray([1, -5, 2**31]))
    with pytest.raises(
        CheckpointError, match="is int64, in `like` it is int32, which would change its values"
    ):
        load(tmp_path / "i.npz", like=like)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats()
        | st.text(max_size=5)
        | hnp.arrays(
            st.sampled_from(["?", "i1", "i4", "i8", "u8", "f4", "f8", "c8", "c16"]),
            hnp.array_shapes(min_dims=0, min_side=0, max_side=4),
        ),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.lists(inner, max_size=3).map(tuple)
            | st.dictionaries(st.text(max_size=3), inner, max_size=3)
        ),
        max_leaves=6,
    )
)
def test_anything_that_nests_comes_back(tmp_path_factory, tree):
    path = tmp_path_factory.mktemp("any") / "tree"
    save(path, tree)

    def same(a, b):
        if isinstance(a, np.ndarray):
            return isinstance(b, np.ndarray) and host(a) == host(b)
        if isinstance(a, dict):
            return type(b) is dict and list(a) == list(b) and all(same(a[k], b[k]) for k in a)
        if isinstance(a, tuple | list):
            return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
        return type(a) is type(b) and repr(a) == repr(b)  # -0.0, nan

    assert same(tree, load(path))
    if not isinstance(tree, np.ndarray):
        assert same(tree, load(path, like=tree))


@settings(deadline=None, derandomize=True, max_examples=30)
@given(st.permutations([0, 1, 2]), st.booleans())
def test_the_order_in_memory_is_kept(tmp_path_factory, axes, gaps):
    x = np.transpose(np.arange(60.0).reshape(3, 4, 5), axes)
    path = tmp_path_factory.mktemp("order") / "x.npz"
    save(path, x[:, ::2] if gaps else x)
    back = load(path)
    assert np.array_equal(back, x[:, ::2] if gaps else x)
    assert np.array_equal(np.argsort(back.strides), np.argsort(x.strides))


def test_numpy_scalars_are_arrays_of_no_dimension(tmp_path):
    save(tmp_path / "s.npz", (np.float32(0.1), np.int64(3), np.bool_(True)))
    back = load(tmp_path / "s.npz", like=(np.float32(0), np.zeros((), dtype=np.int64), np.bool_(False)))
    assert [host(x) for x in back] == [host(x) for x in (np.float32(0.1), np.int64(3), np.bool_(True))]


def test_a_generator_resumes_too(tmp_path):
    rng = np.random.default_rng(5)
    rng.standard_normal(3)
    save(tmp_path / "rng.npz", rng.bit_generator.state)
    expected = rng.standard_normal(4)
    other = np.random.default_rng(0)
    other.bit_generator.state = load(tmp_path / "rng.npz", like=other.bit_generator.state)
    assert np.array_equal(other.standard_normal(4), expected)


class Own(NamedTuple):
    x: Any
    y: Any = None


def test_a_users_own_state_needs_a_template(tmp_path):
    save(tmp_path / "own.npz", Own(np.arange(3.0), {"a": np.zeros(2)}))
    back = load(tmp_path / "own.npz", like=Own(np.zeros(3), {"a": np.zeros(2)}))
    assert isinstance(back, Own)
    assert np.array_equal(back.x, np.arange(3.0))
    with pytest.raises(CheckpointError, match=r"Own\(x, y\), not a state.*as `like`"):
        load(tmp_path / "own.npz")


def test_class_names_of_psgd_core_are_unique():
    names = [c.__name__ for c in tuple.__subclasses__() if c.__module__.startswith("psgd_core")]
    names = [name for name in names if name != "tuple"]
    assert len(names) == len(set(names))


def test_nothing_that_is_loaded_shares_memory_with_the_template(saved):
    path, _, p = saved
    like = p.init(N, like=np.zeros(1))
    before = [host(x) for x in leaves(like)]
    load(path, like=like).q.blocks[0][...] = 7
    assert [host(x) for x in leaves(like)] == before


def test_torch_parameters_are_saved_by_value(tmp_path):
    torch = pytest.importorskip("torch")
    save(tmp_path / "t.npz", [torch.ones(2, requires_grad=True)])
    assert np.array_equal(load(tmp_path / "t.npz")[0], np.ones(2, dtype=np.float32))


# -- what the file says of itself ----------------------------------------------------------------------


def test_inspect(saved):
    path, _, _ = saved
    found = checkpoint.inspect(path)
    assert found["version"] == file.VERSION
    assert found["config"]["class"] == "XMat"
    assert found["config"]["fields"]["geometry"] == "'EQ'"
    assert found["metadata"] == {"seed": 3, "note": ["a", None]}
    assert found["arrays"]["state.q.blocks.0"] == ("float64", (2, 2, N // 2))
    assert found["arrays"]["state.count"] == ("int32", ())


def test_the_same_state_gives_the_same_bytes(tmp_path, saved):
    path, state, p = saved
    save(tmp_path / "again.npz", state, config=p, metadata={"seed": 3, "note": ["a", None]})
    assert (tmp_path / "again.npz").read_bytes() == path.read_bytes()


def test_the_file_is_an_npz_with_a_checksum_as_documented(saved):
    path, state, _ = saved
    raw = path.read_bytes()
    assert raw[-64:].decode() == hashlib.sha256(raw[:-64]).hexdigest()
    with np.load(path, allow_pickle=False) as entries:
        assert json.loads(entries["psgd_checkpoint"].tobytes())["version"] == 1
        assert host(entries["0"]) == host(state.q.blocks[0])


def test_another_configuration_is_noticed(saved):
    path, _, _ = saved
    like = np.zeros(1)
    with pytest.raises(CheckpointError, match=r"run\.npz.*belongs to XMat, got Butterfly as `config`"):
        load(path, like, config=psgd.Butterfly())
    with pytest.raises(CheckpointError, match=r"has damping = None, got 0.1 in `config`"):
        load(path, like, config=psgd.XMat(damping=0.1))
    with pytest.raises(
        CheckpointError, match=r"normalizer = Running\(decay=0.99\), got Running\(decay=0.9\)"
    ):
        load(path, like, config=psgd.XMat(normalizer=psgd.normalizers.Running(0.9)))
    with pytest.raises(TypeError, match=r"`config` must be a dataclass instance.*`metadata`"):
        load(path, like, config=psgd.XMat)


def test_a_long_configuration_is_told_apart_where_its_repr_is_not(tmp_path):
    # repr shows four generators at most; these subgroups differ in the fifth
    swaps = [[*range(2 * i), 2 * i + 1, 2 * i, *range(2 * i + 2, 12)] for i in range(6)]
    one, other = (psgd.PermutationSubgroup.from_generators([*swaps[:4], swaps[i]]) for i in (4, 5))
    assert repr(one) == repr(other)
    p, q = psgd.Sparse(one), psgd.Sparse(other)
    path = tmp_path / "s.npz"
    save(path, p.init(N, like=np.zeros(1)), config=p)
    load(path, config=psgd.Sparse(psgd.PermutationSubgroup.from_generators(swaps[:5])))
    with pytest.raises(CheckpointError, match="has subgroup = sha256:"):
        load(path, config=q)


@dataclass(frozen=True)
class WithFunctions:
    schedule: Any
    thing: Any = object


def halve(i):
    return 0.5**i


def test_functions_in_a_configuration_go_by_name_not_by_address(tmp_path):
    save(tmp_path / "f.npz", [np.zeros(1)], config=WithFunctions((halve, {"a": print}), object()))
    load(tmp_path / "f.npz", config=WithFunctions((halve, {"a": print}), object()))
    with pytest.raises(CheckpointError, match="has schedule = "):
        load(tmp_path / "f.npz", config=WithFunctions((leaves, {"a": print}), object()))


def test_no_configuration_to_compare_with(tmp_path):
    save(tmp_path / "x.npz", np.zeros(2))
    with pytest.raises(CheckpointError, match=r"saved without a configuration.*leave `config` out"):
        load(tmp_path / "x.npz", config=psgd.XMat())


# -- files that are wrong ------------------------------------------------------------------------------


def test_cut_short_anywhere(saved, tmp_path):
    raw = saved[0].read_bytes()
    path = tmp_path / "cut.npz"
    for size in [*range(0, len(raw), 10), len(raw) - 1]:
        path.write_bytes(raw[:size])
        refused(path, "truncated" if size >= 49 else "lost its beginning")
        assert path.read_bytes() == raw[:size]


def test_any_bit_flipped(tmp_path):
    path = tmp_path / "flip.npz"
    save(path, (np.arange(5.0), None))
    raw = bytearray(path.read_bytes())
    for i in range(len(raw)):
        raw[i] ^= 1 << i % 8
        path.write_bytes(raw)
        with pytest.raises(CheckpointError, match=r"checksum does not match|not a psgd_core checkpoint"):
            load(path)
        raw[i] ^= 1 << i % 8


def test_bytes_added(saved, tmp_path):
    raw = saved[0].read_bytes()
    path = tmp_path / "more.npz"
    path.write_bytes(raw + b"\0")
    refused(path, "checksum does not match")
    path.write_bytes(b"#" + raw)
    refused(path, "not a psgd_core checkpoint")
    path.write_bytes(raw[:100] + b"123" + raw[100:])
    refused(path, "checksum does not match")


class Evil:
    """Writes a file when unpickled: the proof that nothing was."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_foreign_files(tmp_path):
    path = tmp_path / "foreign"
    np.savez(path.with_suffix(".npz"), x=np.zeros(3))
    refused(path.with_suffix(".npz"), "not a psgd_core checkpoint")
    np.savez(path.with_suffix(".npz"), psgd_checkpoint=np.zeros(3))
    refused(path.with_suffix(".npz"), "checksum does not match")
    np.save(path.with_suffix(".npy"), np.zeros(30))
    refused(path.with_suffix(".npy"), "not a psgd_core checkpoint")
    path.write_bytes(pickle.dumps(Evil(tmp_path / "pwned")))
    refused(path, "not a psgd_core checkpoint")
    path.write_text("{}" * 100)
    refused(path, "not a psgd_core checkpoint")
    assert not (tmp_path / "pwned").exists()
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "nothing.npz")
    with pytest.raises(OSError, match="directory"):
        load(tmp_path)


def test_the_forger_can_forge(tmp_path):
    forge(tmp_path / "f.npz", header_of(ARRAY), **{"0": np.arange(3.0)})
    assert np.array_equal(load(tmp_path / "f.npz"), np.arange(3.0))


def test_a_newer_version_is_refused(tmp_path):
    path = tmp_path / "new.npz"
    forge(path, header_of(ARRAY) | {"version": 2}, **{"0": np.zeros(3)})
    refused(path, "has format version 2, this psgd_core reads up to 1; update psgd_core")


def test_a_pickle_inside_is_never_run(tmp_path):
    path, evil = tmp_path / "evil.npz", np.asarray([Evil(tmp_path / "pwned")] * 3, dtype=object)
    forge(path, header_of(ARRAY), **{"0": evil})
    with pytest.raises(CheckpointError, match=r"not written by psgd_core.save.*do not use it"):
        load(path)
    stream = io.BytesIO()
    np.lib.format.write_array(stream, evil)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize(
    "header",
    [
        b"not JSON",
        b"[1]",
        b'{"version": 1}',
        b'{"version": "x"}',
        header_of(None),
        header_of([]),
        header_of({"kind": "builtins.exec", "class": "x", "parts": {}}),
        header_of({"kind": "tuple"}),
        header_of({"kind": "tuple", "class": "tuple", "parts": [1]}),
        header_of(ARRAY | {"order": [1]}),
        header_of(ARRAY | {"dtype": "object"}),
        header_of({"array": 0}),
        {"version": 1, "structure": ARRAY},
        b'{"version": 1, "structure": ' + b'{"parts": {"a": ' * 20_000,
    ],
    ids=range(14),
)
def test_headers_that_save_does_not_write(tmp_path, header):
    forge(tmp_path / "f.npz", header, **{"0": np.zeros(3)})
    refused(tmp_path / "f.npz", "not written by psgd_core.save|header that `save` did not write")


@pytest.mark.parametrize(
    ("spec", "x"),
    [
        (ARRAY, np.zeros(4)),
        (ARRAY, np.zeros(3, dtype=np.float32)),
        (ARRAY | {"array": 1}, np.zeros(3)),
        (ARRAY | {"array": "../0"}, np.zeros(3)),
    ],
    ids=range(4),
)
def test_arrays_that_are_not_what_the_header_says(tmp_path, spec, x):
    forge(tmp_path / "f.npz", header_of(spec), **{"0": x})
    with pytest.raises(CheckpointError, match="do not use it"):
        load(tmp_path / "f.npz")


def test_classes_are_not_imported_by_name(tmp_path):
    spec = {"kind": "namedtuple", "class": "Popen", "parts": {"args": {"value": "true"}}}
    forge(tmp_path / "f.npz", header_of(spec))
    with pytest.raises(CheckpointError, match=r"Popen\(args\), not a state that this psgd_core knows"):
        load(tmp_path / "f.npz")


# -- templates that do not fit -------------------------------------------------------------------------


def test_templates_that_do_not_fit(saved):
    path, _, p = saved
    x = np.zeros(1)
    for like, match in [
        (psgd.LowRank(2).init(N, like=x), r"`state` is OrbitState\(q.*in `like` it is LowRankState\(u"),
        (p.init(N + 1, like=x), r"`state\.q\.blocks` is tuple\(0\), in `like` it is tuple\(0, 1\)"),
        (p.init(N + 2, like=x), r"`state\.q\.blocks\.0` is an array of shape \(2, 2, 6\)"),
        (p.init(N, like=x)._replace(count=0), r"`state\.count` is an array of shape \(\), in `like` it is 0"),
        (p.init(N, like=x)._replace(held=None), r"`state\.held` is tuple\(0\), in `like` it is None"),
        ({"q": x}, r"in `like` it is dict\(q\)"),
        ("state", "in `like` it is 'state'"),
    ]:
        with pytest.raises(CheckpointError, match=match):
            load(path, like=like)
    with pytest.raises(CheckpointError, match=r"`state.q.blocks.0` is float64, in `like` it is float32"):
        load(path, like=p.init(N, like=x.astype(np.float32)))


@pytest.mark.parametrize(
    ("tree", "like"),
    [
        ([1], (1,)),
        ([1], [1, 2]),
        ({"a": 1}, {"b": 1}),
        ([None], [np.zeros(1)]),
        ([1], [1.0]),
        ([True], [1]),
        ([np.zeros(1)], [None]),
        (np.zeros(3), np.zeros(4)),
    ],
    ids=range(8),
)
def test_any_difference_in_structure_is_noticed(tmp_path, tree, like):
    save(tmp_path / "x.npz", tree)
    with pytest.raises(CheckpointError, match="does not fit"):
        load(tmp_path / "x.npz", like=like)


# -- states and metadata that cannot be saved ----------------------------------------------------------


@pytest.mark.parametrize(
    ("tree", "match"),
    [
        ([object()], r"`state\.0` must be an array, None, bool.*got object; keep it out"),
        ({"a": {1: 2}}, r"`state\.a` must have str keys, got 1"),
        ([1j], "got complex"),
        ({"f": print}, r"`state\.f` must be an array"),
        ([np.asarray(["a"])], r"`state\.0` must be bool, integer, real or complex.*got <U1"),
        ([np.asarray([None])], "got object"),
        ([np.zeros(2, dtype=">f8")], "native byte order, got >f8"),
        ([np.zeros(2, dtype="M8[s]")], "got datetime64"),
    ],
)
def test_what_cannot_be_saved_is_refused_before_writing(tmp_path, tree, match):
    with pytest.raises(TypeError, match=match):
        save(tmp_path / "x.npz", tree)
    assert os.listdir(tmp_path) == []


def test_metadata_must_be_json(tmp_path):
    for wrong in ({"x": np.zeros(2)}, {"x": {1, 2}}, {(1, 2): 3}):
        with pytest.raises(TypeError, match="`metadata` must be JSON"):
            save(tmp_path / "x.npz", np.zeros(1), metadata=wrong)
    assert os.listdir(tmp_path) == []


# -- writing: all or nothing ---------------------------------------------------------------------------


def test_the_folder_must_exist(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"`path` must lie in an existing folder.*makedirs"):
        save(tmp_path / "no" / "x.npz", np.zeros(1))
    assert os.listdir(tmp_path) == []


class Interrupt(BaseException):
    """As KeyboardInterrupt: not an Exception."""


@pytest.mark.parametrize("error", [OSError("disk full"), Interrupt()], ids=["OSError", "interrupt"])
@pytest.mark.parametrize(
    "where",
    ["os.replace", "os.fsync", "numpy.lib.format.write_array", "zipfile.ZipFile.close", "hashlib.sha256"],
)
def test_an_interrupted_write_changes_nothing(saved, monkeypatch, where, error):
    path, _, p = saved
    raw = path.read_bytes()

    def fail(*args, **kwargs):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(where, fail)
        with pytest.raises(type(error)):
            save(path, p.init(N, like=np.zeros(1)), metadata={"new": True})
    assert path.read_bytes() == raw
    assert os.listdir(path.parent) == [path.name]
    save(path, p.init(N, like=np.zeros(1)))
    assert int(load(path).count) == 0


@pytest.mark.parametrize("after", [0, 1, 3])
def test_an_interruption_between_arrays(saved, monkeypatch, after):
    path, state, _ = saved
    raw, calls = path.read_bytes(), []
    original = np.lib.format.write_array

    def fail(file, x, **kwargs):
        calls.append(x)
        file.write(b"half an array")
        if len(calls) > after:
            raise KeyboardInterrupt
        original(file, x, **kwargs)

    monkeypatch.setattr(np.lib.format, "write_array", fail)
    with pytest.raises(KeyboardInterrupt):
        save(path, state)
    assert path.read_bytes() == raw
    assert os.listdir(path.parent) == [path.name]


def test_an_array_that_cannot_be_read_changes_nothing(saved):
    jax = pytest.importorskip("jax")
    path, _, _ = saved
    raw = path.read_bytes()

    def traced(x):
        save(path, [x])
        return x

    with pytest.raises(TypeError, match="traced"):
        jax.jit(traced)(jax.numpy.zeros(2))
    assert path.read_bytes() == raw
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.skipif(os.name != "posix", reason="POSIX permissions and links")
def test_permissions_and_links_are_as_for_any_file(tmp_path):
    (tmp_path / "plain").write_bytes(b"")
    save(tmp_path / "x.npz", np.zeros(1))
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "x.npz")]
    assert modes[0] == modes[1]
    (tmp_path / "link.npz").symlink_to("x.npz")
    save(tmp_path / "link.npz", np.ones(1))
    assert (tmp_path / "link.npz").is_symlink()
    assert float(load(tmp_path / "x.npz")[0]) == 1.0
