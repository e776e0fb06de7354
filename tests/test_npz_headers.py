"""Headers of arrays that no NumPy wrote: one sentence, and no memory taken for them."""

from __future__ import annotations

import io
import tracemalloc
import zipfile

import numpy as np
import pytest

from psgd_analysis.problems import load_hessian


def npy(text, version=1):
    width = {1: 2, 2: 4}[version]
    return b"\x93NUMPY" + bytes([version, 0]) + len(text).to_bytes(width, "little") + text


@pytest.mark.parametrize(
    "text", [b"-" * 9000 + b"1", b"(" * 300, b"{'shape': (10**9, 3)}", b"f()", b"\0\0", b"{'descr': '<f8'}"]
)
@pytest.mark.parametrize("version", [1, 2])
def test_headers_that_cannot_be_parsed_are_refused_as_such(tmp_path, text, version):
    path = tmp_path / "h.npy"
    path.write_bytes(npy(text + b"\n", version))
    with pytest.raises(ValueError, match=r"h\.npy: is not a valid .npy file \(its header is not one"):
        load_hessian(path)


def test_a_long_header_is_refused_before_memory_is_taken_for_it(tmp_path):
    path, stream = tmp_path / "h.npz", io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("h.npy", npy(b" " * 2**25, 2))
    path.write_bytes(stream.getvalue())
    assert path.stat().st_size < 2**17
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="its header has 33554432 bytes"):
            load_hessian(path)
        assert tracemalloc.get_traced_memory()[1] < 2**23
    finally:
        tracemalloc.stop()


def test_the_second_version_of_the_format_is_read(tmp_path):
    h = np.array([[2.0, 1.0], [1.0, 3.0]])
    with (tmp_path / "h.npy").open("wb") as file:
        np.lib.format.write_array(file, h, version=(2, 0))
    assert np.array_equal(load_hessian(tmp_path / "h.npy"), h)
