"""Arrays handed from one library to another: the same memory, or a sentence that says why not."""

from __future__ import annotations

import gc
import importlib
import importlib.util
import os
import subprocess
import sys
import tracemalloc
import weakref

import numpy as np
import pytest

from psgd_core.adapters import dlpack
from psgd_core.adapters.dlpack import convert, to_cupy, to_jax, to_numpy, to_torch

N = 1_000_000


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="torch is not installed")


@pytest.fixture
def jax():
    return pytest.importorskip("jax", reason="jax is not installed")


def address(x):
    if isinstance(x, np.ndarray):
        return x.__array_interface__["data"][0]
    return x.data_ptr() if hasattr(x, "data_ptr") else x.unsafe_buffer_pointer()


def aligned(n, dtype="float32"):
    """NumPy memory that starts at a multiple of 64 bytes, as JAX wants."""
    size = np.dtype(dtype).itemsize
    raw = np.zeros(n * size + 64, dtype=np.uint8)
    start = -address(raw) % 64
    return raw[start : start + n * size].view(dtype)


def peak(function):
    """Return (result, bytes NumPy allocated at most meanwhile)."""
    function()  # imports and caches of the first call
    tracemalloc.start()
    result = function()
    found = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return result, found


# -- the same memory ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "int64", "uint8", "bool", "complex64"])
def test_torch_and_numpy_share(torch, dtype):
    x = np.ones((500, 20), dtype=dtype)
    (tensor, there), (back, again) = peak(lambda: to_torch(x)), peak(lambda: to_numpy(to_torch(x)))
    assert address(tensor) == address(x) == address(back)
    assert tensor.shape == x.shape
    assert back.dtype == x.dtype
    assert back.flags.writeable
    assert max(there, again) < x.nbytes
    tensor[3, 4] = 0
    assert not x[3, 4]
    assert not back[3, 4]


def test_nothing_of_size_n_is_allocated(torch, jax):
    x, y = aligned(N), jax.numpy.ones(N)
    for function, source in (
        (lambda: to_torch(x), x),
        (lambda: to_numpy(to_torch(x)), x),
        (lambda: to_jax(x), x),
        (lambda: to_numpy(y), y),
        (lambda: to_torch(y, read_only=True), y),
        (lambda: to_jax(to_torch(y, read_only=True)), y),
    ):
        result, allocated = peak(function)
        assert address(result) == address(source)
        assert allocated < 20_000  # of 4,000,000 bytes


def test_jax_is_shared_read_only(jax):
    x = jax.numpy.arange(N, dtype="float32")
    view = to_numpy(x)
    assert address(view) == x.unsafe_buffer_pointer()
    assert not view.flags.writeable
    np.testing.assert_array_equal(view[:5], range(5))


def test_what_jax_is_still_computing_is_waited_for(jax):
    x = jax.numpy.full((400, 400), 1.0 / 400)
    many = jax.jit(lambda x: jax.lax.fori_loop(0, 100, lambda _, y: y @ x, x))
    np.testing.assert_allclose(to_numpy(many(x)), 1 / 400, rtol=1e-4)


def test_jax_takes_aligned_and_read_only_memory(jax):
    x = aligned(1000)
    x.flags.writeable = False
    assert to_jax(x).unsafe_buffer_pointer() == address(x)


def test_jax_takes_transposed_memory(jax):
    x = aligned(1000).reshape(10, 100)
    x[:] = np.arange(1000).reshape(10, 100)
    there = to_jax(x.T)
    assert there.unsafe_buffer_pointer() == address(x)
    np.testing.assert_array_equal(there, x.T)


def test_torch_takes_strided_memory(torch):
    x = np.arange(1000.0)
    assert address(to_torch(x[::3])) == address(x)
    assert to_torch(x[::3])[2] == 6
    x.flags.writeable = False
    assert address(to_torch(x, read_only=True)) == address(x)


def test_bfloat16_between_torch_and_jax(torch, jax):
    x = torch.arange(64, dtype=torch.bfloat16)
    there = to_jax(x)
    assert there.unsafe_buffer_pointer() == x.data_ptr()
    assert to_torch(there, read_only=True).data_ptr() == x.data_ptr()


@pytest.mark.parametrize("library", ["numpy", "torch", "jax"])
def test_one_library_alone(library):
    module = pytest.importorskip("jax.numpy" if library == "jax" else library)
    x = module.ones(3)
    assert convert(x, library) is x
    assert convert(x, module) is x
    copy = convert(x, library, copy=True)
    assert address(copy) != address(x)
    assert type(copy) is type(x)


def test_any_namespace_names_its_library(torch):
    import array_api_compat

    for xp in (array_api_compat.array_namespace(torch.ones(1)), torch, "torch"):
        assert isinstance(convert(np.ones(3), xp), torch.Tensor)


class Foreign:
    """An array of some library that nobody knows."""

    def __init__(self, x):
        self.x = x

    def __dlpack__(self, **kwargs):
        return self.x.__dlpack__(**kwargs)

    def __dlpack_device__(self):
        return self.x.__dlpack_device__()


def test_any_object_with_the_protocol(torch, jax):
    x = aligned(64)
    for to in (to_numpy, to_torch, to_jax):
        assert address(to(Foreign(x))) == address(x)
        assert address(to(Foreign(x), copy=True)) != address(x)
    x.flags.writeable = False
    with pytest.raises(BufferError, match="read-only and PyTorch"):
        to_torch(Foreign(x))
    backwards = Foreign(np.arange(10.0)[::-1])
    with pytest.raises(BufferError, match="stride is negative"):
        to_torch(backwards)
    assert to_torch(backwards, copy=True)[0] == 9


class Elsewhere(Foreign):
    """An array on some accelerator."""

    def __dlpack_device__(self):
        return (12, 0)


def test_foreign_devices(torch):
    for copy in (False, True):
        with pytest.raises(BufferError, match="lies on DLPack device 12:0; move it"):
            to_numpy(Elsewhere(np.ones(3)), copy=copy)


# -- lifetime ----------------------------------------------------------------------------------------------


class Owner(np.ndarray):
    """NumPy memory whose end can be watched."""


def test_memory_lives_as_long_as_either_side(torch, jax):
    for to in (to_torch, to_jax):
        for flag in (True, False):
            if to is to_torch and not flag:
                continue
            x = aligned(N)
            base = x.base
            while base.base is not None:
                base = base.base
            end, there = weakref.ref(base), None
            x.flags.writeable = flag
            there = to(x)
            del x, base
            gc.collect()
            assert end() is not None
            assert float(there[-1]) == 0
            del there
            gc.collect()
            assert end() is None


def test_a_view_keeps_a_tensor_alive(torch):
    x = torch.ones(N)
    end = weakref.ref(x.untyped_storage())
    view = to_numpy(x)
    del x
    gc.collect()
    assert view[-1] == 1
    del view
    gc.collect()
    assert end() is None


def test_donated_memory_that_is_shared_stays(jax):
    """JAX may not reuse a buffer that it gave away, or was given."""
    mine, theirs = aligned(1000), jax.numpy.full(1000, 3.0)
    mine[:] = 3
    view = to_numpy(theirs)
    for x in (to_jax(mine), theirs):
        jax.block_until_ready(jax.jit(lambda x: 0 * x - 1, donate_argnums=0)(x))
    assert mine[7] == view[7] == 3


def test_memory_is_given_back(torch, jax):
    def resident():
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * 4096

    if sys.platform != "linux":
        pytest.skip("resident memory is read from /proc")
    before = resident()
    for i in range(40):  # 20 MB each, 800 MB if any side kept them
        x = jax.numpy.full(5_000_000, float(i))
        view, tensor = to_numpy(x), to_torch(x, read_only=True)
        del x
        assert view[7] == tensor[7] == i
        assert address(to_jax(tensor)) == address(view)
        del view, tensor
    assert resident() - before < 200e6


# -- what cannot be shared ---------------------------------------------------------------------------------


def refused(convert, match):
    """It is refused in one sentence; None and True copy."""
    with pytest.raises(BufferError, match=match) as caught:
        convert(copy=False)
    message = str(caught.value)
    assert message.startswith("`x` must be shareable with ")
    assert "; " in message
    assert "\n" not in message
    return convert(copy=None), convert(copy=True)


def test_read_only_to_torch(torch):
    x = np.ones(5)
    x.flags.writeable = False
    for copy in refused(lambda **kw: to_torch(x, **kw), "read-only and PyTorch arrays are always writable"):
        copy[0] = 7
    assert x[0] == 1


def test_jax_to_torch(torch, jax):
    x = jax.numpy.ones(5)
    for copy in refused(lambda **kw: to_torch(x, **kw), "or read_only=True"):
        copy[0] = 7
    assert x[0] == 1


def test_backwards(torch, jax):
    x = np.arange(5.0, dtype="float32")[::-1]
    for copy in (
        *refused(lambda **kw: to_torch(x, **kw), "stride is negative"),
        *refused(lambda **kw: to_jax(x, **kw), "not contiguous"),
    ):
        np.testing.assert_array_equal(copy, x)


def test_gaps_to_jax(torch, jax):
    for x in (np.arange(20.0, dtype="float32")[::2], torch.arange(20.0).reshape(4, 5)[:, :3]):
        for copy in refused(lambda x=x, **kw: to_jax(x, **kw), "not contiguous, which JAX"):
            np.testing.assert_array_equal(copy, x)
    broadcast = np.broadcast_to(np.float32(3), (4, 4))
    for copy in refused(lambda **kw: to_jax(broadcast, **kw), "not contiguous"):
        np.testing.assert_array_equal(copy, broadcast)


def test_alignment_to_jax(jax):
    x = aligned(101)[1:]
    x[:] = np.arange(100)
    for copy in refused(lambda **kw: to_jax(x, **kw), "not aligned to 64 bytes"):
        np.testing.assert_array_equal(copy, x)


def test_wide_dtypes_to_jax(jax):
    for dtype in ("float64", "int64", "complex128"):
        x = aligned(8, dtype)
        with jax.enable_x64(True):
            assert address(to_jax(x)) == address(x)
        for copy in (False, None, True):  # it would be rounded: no copy helps
            with pytest.raises(BufferError, match=f"JAX has no {dtype} without x64; set jax.config"):
                to_jax(x, copy=copy)


def test_bfloat16_to_numpy(torch, jax):
    for x in (torch.arange(9, dtype=torch.bfloat16), jax.numpy.arange(9, dtype="bfloat16")):
        for copy in refused(lambda x=x, **kw: to_numpy(x, **kw), "no bfloat16; pass copy=True for a float32"):
            assert copy.dtype == np.float32
            np.testing.assert_array_equal(copy, np.arange(9.0))
    small = np.asarray(jax.numpy.arange(9, dtype="bfloat16"))
    for copy in refused(lambda **kw: to_jax(small, **kw), "its library says: DLPack only supports"):
        assert copy.dtype == "bfloat16"


def test_numpys_own_dtypes(torch):
    for x in (np.zeros(3, dtype="M8[s]"), np.array([None]), np.array(["a"])):
        for copy in (False, True):
            with pytest.raises(BufferError, match=r"PyTorch has no .*; convert it to a dtype that both"):
                to_torch(x, copy=copy)
    swapped = np.arange(3, dtype=">f4")
    for copy in refused(lambda **kw: to_torch(swapped, **kw), "native byte order"):
        np.testing.assert_array_equal(copy, swapped)


def test_tensors_with_strings_attached(torch):
    grad = torch.ones(3, requires_grad=True)
    conjugated = torch.tensor([1 + 2j, 3j]).conj()
    negated = conjugated.imag
    assert negated.is_neg()
    for x, match in (
        (grad, r"requires gradients; call x.detach\(\), or pass copy=True"),
        (conjugated, r"lazily conjugated; call x.resolve_conj\(\)"),
        (negated, r"lazily negated; call x.resolve_neg\(\)"),
    ):
        for copy in refused(lambda x=x, **kw: to_numpy(x, **kw), match):
            np.testing.assert_array_equal(copy, x.detach().resolve_conj().resolve_neg().numpy())
            copy[0] = 5
            assert x[0] != 5


def test_sparse_tensors(torch):
    for copy in (False, True):
        with pytest.raises(BufferError, match=r"layout torch.sparse_coo; call x.to_dense\(\)"):
            to_numpy(torch.eye(3).to_sparse(), copy=copy)


def test_traced_values(jax):
    with pytest.raises(TypeError, match=r"got a traced one; share it outside `jax.jit`"):
        jax.jit(to_numpy)(jax.numpy.ones(3))


@pytest.mark.parametrize("x", [[1.0, 2.0], 3.0, None, "x", np.ones(3).__dlpack__()])
def test_what_is_no_array(x):
    with pytest.raises(TypeError, match=r"`x` must be an array with `__dlpack__`.*pass the array itself"):
        to_numpy(x)


def test_unknown_library():
    for xp in ("tensorflow", 7, importlib):
        with pytest.raises(TypeError, match="`xp` must be numpy, cupy, torch or jax, got "):
            convert(np.ones(3), xp)


def test_missing_library(monkeypatch):
    for library, name in (("cupy", "cupy-cuda12x"), ("torch", "torch"), ("jax", "jax")):
        monkeypatch.setitem(sys.modules, library, None)
        monkeypatch.setitem(sys.modules, "jax.numpy", None)
        with pytest.raises(ImportError, match=f"is not installed; pip install {name}"):
            convert(np.ones(3), library)


def test_spread_over_devices():
    """In a process of its own: the number of devices is fixed when JAX starts."""
    pytest.importorskip("jax")
    script = """if True:
        import jax, numpy as np
        from jax.sharding import NamedSharding, PartitionSpec
        from psgd_core.adapters.dlpack import to_numpy
        mesh = jax.make_mesh((2,), ("a",))
        x = jax.device_put(jax.numpy.arange(8.0), NamedSharding(mesh, PartitionSpec("a")))
        try:
            to_numpy(x)
        except BufferError as error:
            print(error)
        copy = to_numpy(x, copy=True)
        copy[0] = 7
        print(copy, np.asarray(x)[0])
    """
    out = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={
            **os.environ,
            "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2",
        },
    ).stdout
    assert "spread over 2 devices; call jax.device_put" in out
    assert "[7. 1. 2. 3. 4. 5. 6. 7.] 0.0" in out


def test_nothing_is_imported_before_it_is_asked_for():
    script = (
        "import sys, psgd_core.adapters.dlpack, psgd_core; psgd_core.adapters.dlpack; "
        "assert not {'torch', 'jax', 'cupy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
    assert set(dlpack.__all__) == {"convert", "to_cupy", "to_jax", "to_numpy", "to_torch"}


# -- on a GPU ----------------------------------------------------------------------------------------------


def _on_gpu(library):
    if importlib.util.find_spec("cupy") is None:
        pytest.skip("cupy is not installed")
    cupy = importlib.import_module("cupy")
    if not cupy.cuda.is_available():
        pytest.skip("no CUDA device")
    module = pytest.importorskip("jax.numpy" if library == "jax" else library)
    if library == "torch":
        if not module.cuda.is_available():
            pytest.skip("torch has no CUDA here")
        return cupy, module.arange(10.0, device="cuda")
    import jax

    try:
        device = jax.devices("gpu")[0]
    except RuntimeError:
        pytest.skip("jax has no CUDA here")
    return cupy, jax.device_put(module.arange(10.0), device)


@pytest.mark.gpu
@pytest.mark.parametrize("library", ["torch", "jax"])
def test_cupy_shares_with(library):
    cupy, x = _on_gpu(library)
    there = to_cupy(x, read_only=library == "jax")
    assert there.data.ptr == address(x)
    back = convert(there, library)
    assert address(back) == address(x)
    cupy.testing.assert_array_equal(there, cupy.arange(10.0))
    with pytest.raises(BufferError, match="move it to the host first"):
        to_numpy(x)
    np.testing.assert_array_equal(to_numpy(x, copy=True), np.arange(10.0))
    with pytest.raises(BufferError, match="lies on the host; move it to a CUDA device"):
        to_cupy(np.ones(3))
    cupy.testing.assert_array_equal(to_cupy(np.ones(3), copy=True), cupy.ones(3))


@pytest.mark.gpu
def test_streams_are_waited_for():
    cupy, _ = _on_gpu("torch")
    torch = importlib.import_module("torch")
    for _ in range(20):
        with torch.cuda.stream(torch.cuda.Stream()):
            y = torch.ones(4_000_000, device="cuda")
            for _ in range(50):
                y = y + 1
            with cupy.cuda.Stream(non_blocking=True):
                assert float(to_cupy(y).min()) == 51
