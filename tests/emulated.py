"""CUDA kernels on the host: compiled by g++ as C++, run by an emulator of blocks and threads.

`Emulator` stands in for ``cupy.RawModule``; `Host` for a library whose arrays lie on a device. Both are as
strict as can be: arguments must have the size of the kernel's parameters, arrays have guards at both ends and
start as NaN, and what shared memory holds at the start is NaN, too.
"""

from __future__ import annotations

import contextlib
import ctypes
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from gpu_kernels import low_rank_kernels, orbit_kernels

from psgd_core.kernels.gpu import cuda_library, low_rank_launches, orbit_launches
from psgd_core.kernels.gpu.cuda_library import Library, View

ERRORS = {1: "threads of a block part at a barrier", 2: "copies were not waited for", 3: "block too large"}
GUARD = 64
COMPILER = shutil.which("g++")


class Emulator:
    """The kernels of a source, all of them compiled at once.

    Parameters
    ----------
    folder : Path
        For the library.
    source : str
    names : list of str
        As C++ names them: ``inspect<float, 4>``.
    """

    def __init__(self, folder: Path, source: str, names: list[str]) -> None:
        exports = [f"KERNEL({i}, {name})" for i, name in enumerate(names)]
        header = Path(__file__).parent / "cuda" / "emulator.h"
        code, library = folder / f"{Path(source).stem}.cpp", folder / f"{Path(source).stem}.so"
        text = [f'#include "{header}"', "namespace {", cuda_library.source(source), "}", *exports]
        code.write_text("\n".join(text))
        command = ["g++", "-std=c++17", "-O1", "-shared", "-fPIC", "-Wno-unknown-pragmas", "-Wall", "-Werror"]
        subprocess.run([*command, "-o", str(library), str(code)], check=True)
        self.library = ctypes.CDLL(str(library))
        self.kernels = {name: self._kernel(name, i) for i, name in enumerate(names)}
        self.schedule = 0  # 0: in order, 1: backwards, 2: shuffled
        self.launched: list[str] = []

    def compiled(self, source: str, kernels: tuple[str, ...]) -> tuple[cuda_library.Kernel, ...]:
        """Stand in for `cuda_library.compiled`."""
        return tuple(self.kernels[name] for name in kernels)

    def _kernel(self, name: str, number: int) -> cuda_library.Kernel:
        launch = getattr(self.library, f"launch_{number}")
        room = (ctypes.c_int * 32)()
        sizes = room[: getattr(self.library, f"sizes_{number}")(room)]

        def kernel(grid, block, arguments, shared_mem=0):
            packed = [packed_as_cupy_does(x) for x in arguments]
            assert [len(x) for x in packed] == sizes, f"{name} takes {sizes}"
            buffers = [ctypes.create_string_buffer(x, len(x)) for x in packed]
            pointers = (ctypes.c_void_p * len(buffers))(*(ctypes.addressof(x) for x in buffers))
            shape = (ctypes.c_uint * 4)(*(*grid, 1)[:2], *block, shared_mem)
            self.launched.append(name)
            failed = launch(shape, pointers, self.schedule)
            assert not failed, f"{name}: {ERRORS[failed]}"

        return kernel


@cache
def emulator(source: str) -> Emulator:
    """Return all kernels of a source, compiled once; without a compiler, skip the test."""
    if COMPILER is None:
        pytest.skip("the emulator needs g++")
    names = {"orbits.cu": orbit_kernels, "low_rank.cu": low_rank_kernels}[source]()
    with tempfile.TemporaryDirectory() as folder:
        return Emulator(Path(folder), source, names)


def packed_as_cupy_does(x):
    """Return the bytes that ``cupy.RawKernel`` passes: ints and floats take eight."""
    assert not isinstance(x, bool)
    if isinstance(x, int):
        x = np.int64(x)
    elif type(x) is float:
        x = np.float64(x)
    assert isinstance(x, np.generic)
    return x.tobytes()


class OnDevice(np.ndarray):
    """An array that plain NumPy code is not meant for; the kernels take it."""


class Host(Library):
    """A library of `OnDevice` arrays, on a device with three multiprocessors."""

    def __init__(self) -> None:
        self.guarded: list[tuple[np.ndarray, int, int]] = []
        self.allocated: list[tuple[int, ...]] = []
        self.overwritten: list[OnDevice] = []
        self.launched: list[str] = []

    def place(self, x, shift: int = 0) -> OnDevice:
        """Return a copy of x on the device, `shift` items off from where arrays begin."""
        x = np.asarray(x)
        buffer = np.full(4 * GUARD + x.nbytes, 0xFF, dtype=np.uint8)
        start = GUARD + -buffer.ctypes.data % GUARD + shift * x.itemsize
        place = buffer[start : start + x.nbytes]
        place[:] = np.frombuffer(x.tobytes(), dtype=np.uint8)
        self.guarded.append((buffer, start, x.nbytes))
        return place.view(x.dtype).reshape(x.shape).view(OnDevice)

    def intact(self) -> bool:
        """Return whether nobody wrote beside an array."""
        return all(
            np.all(buffer[:start] == 0xFF) and np.all(buffer[start + size :] == 0xFF)
            for buffer, start, size in self.guarded
        )

    def view(self, x):
        if not isinstance(x, OnDevice) and isinstance(x, np.ndarray | np.generic) and x.ndim == 0:
            x = self.place(x)  # what NumPy's functions make of 0-d arrays
        if not isinstance(x, OnDevice) or not x.flags.c_contiguous:
            return None
        return View(x.ctypes.data, x.shape, x.dtype.name, 0)

    def empty(self, shape, dtype, device):
        self.allocated.append(shape)
        kind = np.dtype(dtype)
        return self.place(np.full(shape, np.nan if kind.kind == "f" else 1, kind))

    def zeros(self, count, device):
        return self.place(np.zeros(count))

    def cast(self, x, dtype):
        return self.place(x.astype(dtype))

    def contiguous(self, x):
        return x if x.flags.c_contiguous else self.place(np.ascontiguousarray(x))

    def reread(self, x, dtype):
        return x.view(dtype)

    def written(self, *arrays):
        self.overwritten += arrays

    def within(self, device):
        return contextlib.nullcontext()

    def processors(self, device):
        return 3

    def state(self, tree):
        """Return a state on the device."""
        if isinstance(tree, tuple):
            parts = [self.state(x) for x in tree]
            return type(tree)(*parts) if hasattr(tree, "_fields") else tuple(parts)
        return self.place(tree)


@contextlib.contextmanager
def emulated_device(monkeypatch, threads: int):
    """Yield a `Host` that the kernels take arrays of, with small blocks: few items take several of them.

    Parameters
    ----------
    monkeypatch
        The fixture.
    threads : int
        Of a block.
    """
    found = Host()
    for source in ("orbits.cu", "low_rank.cu"):
        emulator(source).schedule = 0
        emulator(source).launched = found.launched
    monkeypatch.setattr(
        cuda_library, "compiled", lambda source, names: emulator(source).compiled(source, names)
    )
    monkeypatch.setattr(cuda_library, "library_of", lambda x: found if isinstance(x, OnDevice) else None)
    monkeypatch.setattr(cuda_library, "THREADS", threads)
    monkeypatch.setattr(cuda_library, "BLOCKS", 1)
    forget_kernels()
    yield found
    forget_kernels()
    assert found.intact(), "something was written beside an array"


def forget_kernels() -> None:
    """Forget what was compiled."""
    for function in (orbit_launches.general, orbit_launches.special, low_rank_launches.kernels):
        function.cache_clear()


class FakeCupy(ModuleType):
    """As much of CuPy as the kernels need: arrays in the host's memory, and `Emulator` for ``RawModule``.

    To look at a value is an error, as it would wait for the device; so is memory for another device than the
    current one.
    """

    def __init__(self, device: int) -> None:
        super().__init__("cupy")
        self.host, self.device, self.current, self.compiled = Host(), device, -1, []
        fake, where = self, SimpleNamespace(id=device)

        class ndarray(OnDevice):
            device = where
            data = property(lambda self: SimpleNamespace(ptr=self.ctypes.data))

            def _waits(self, *args):
                raise AssertionError("the value of an array is asked for, which waits for the device")

            __bool__ = __float__ = __int__ = __index__ = item = tolist = get = _waits

        class Device:
            def __init__(self, number):
                self.number, self.attributes = number, {"MultiProcessorCount": 3}

            def __enter__(self):
                self.before, fake.current = fake.current, self.number

            def __exit__(self, *args):
                fake.current = self.before

        class RawModule:
            def __init__(self, *, code, options, name_expressions):
                fake.compiled.append((code, options))
                self.names = name_expressions
                source = next(x for x in ("orbits.cu", "low_rank.cu") if cuda_library.source(x) == code)
                self.kernels = emulator(source).kernels

            def get_function(self, name):
                assert name in self.names
                kernel = self.kernels[name]

                def launch(grid, block, arguments, *, shared_mem=0):
                    assert fake.current == fake.device
                    kernel(grid, block, arguments, shared_mem)

                return launch

        self.ndarray, self.RawModule, self.cuda = ndarray, RawModule, SimpleNamespace(Device=Device)

    def asarray(self, x):
        """Return a copy on the device."""
        return self.host.place(x).view(self.ndarray)

    def empty(self, shape, dtype):
        """Return an array on the current device."""
        assert self.current == self.device
        return self.host.empty(shape, dtype, 0).view(self.ndarray)

    def zeros(self, count):
        """Return zeros."""
        assert self.current == self.device
        return self.asarray(np.zeros(count))

    def ascontiguousarray(self, x):
        """Return x without gaps."""
        return x if x.flags.c_contiguous else self.asarray(np.ascontiguousarray(x))

    def state(self, tree):
        """Return a state on the device."""
        if isinstance(tree, tuple):
            parts = [self.state(x) for x in tree]
            return type(tree)(*parts) if hasattr(tree, "_fields") else tuple(parts)
        return self.asarray(tree)
