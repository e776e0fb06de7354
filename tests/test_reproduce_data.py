"""Data sets of `psgd reproduce`: files forged here byte by byte, damaged files, stand-ins, hashes."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import pickle
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest

from psgd_analysis.reproduce import data, samples

MNIST = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")


GIVEN = os.environ.get("PSGD_DATA")
PUBLISHED = {
    "mnist": (
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ),
    "text": ("86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",),
}
"""SHA-256 of the four files of MNIST, and of tiny Shakespeare."""


@pytest.fixture(autouse=True)
def _no_folder(monkeypatch):
    monkeypatch.delenv("PSGD_DATA", raising=False)


def idx(array: np.ndarray) -> bytes:
    """Return an IDX file of bytes, as its specification says."""
    head = struct.pack(">BBBB", 0, 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    return head + array.astype(np.uint8).tobytes()


def mnist_arrays(seed: int = 0, train: int = 12, test: int = 5) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    arrays = []
    for n in (train, test):
        arrays += [rng.integers(0, 256, (n, 28, 28)), rng.integers(0, 10, n)]
    return arrays


def write_mnist(folder: Path, arrays: list[np.ndarray], *, zipped: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in zip(MNIST, arrays, strict=True):
        if zipped:
            (folder / f"{name}-ubyte.gz").write_bytes(gzip.compress(idx(array)))
        else:
            (folder / f"{name}-ubyte").write_bytes(idx(array))


def require_equal(found: data.DataSet, arrays: list[np.ndarray]) -> None:
    for got, wanted in zip((found.train_x, found.train_y, found.test_x, found.test_y), arrays, strict=True):
        np.testing.assert_array_equal(got, wanted)


# -- MNIST ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("own_folder", ["mnist", "."])
def test_mnist_is_read(tmp_path, zipped, own_folder):
    arrays = mnist_arrays()
    write_mnist(tmp_path / own_folder, arrays, zipped=zipped)
    found = data.load("mnist", tmp_path)
    require_equal(found, arrays)
    assert (found.name, found.classes, found.stands_in) == ("mnist", 10, "")
    assert found.train_x.dtype == np.uint8
    assert data.resolve("mnist", tmp_path) == ("mnist", found.hash)
    assert data.available("mnist", tmp_path) == "mnist"


def test_names_with_dots(tmp_path):
    write_mnist(tmp_path, mnist_arrays(), zipped=True)
    for path in tmp_path.iterdir():
        path.rename(tmp_path / path.name.replace("-idx", ".idx"))
    require_equal(data.load("mnist", tmp_path), mnist_arrays())


def test_the_hash_is_that_of_the_contents(tmp_path):
    """Compressed or not, as the definition says: SHA-256 of the files' SHA-256s."""
    arrays = mnist_arrays()
    for name, zipped in (("plain", False), ("zipped", True)):
        write_mnist(tmp_path / name, arrays, zipped=zipped)
    wanted = hashlib.sha256(b"".join(hashlib.sha256(idx(a)).digest() for a in arrays)).hexdigest()
    assert data.resolve("mnist", tmp_path / "plain")[1] == wanted
    assert data.resolve("mnist", tmp_path / "zipped")[1] == wanted


def test_verdicts_know_the_published_files():
    files = b"".join(bytes.fromhex(digest) for digest in PUBLISHED["mnist"])
    assert {"mnist": hashlib.sha256(files).hexdigest()} == samples.PUBLISHED


def test_changed_files_are_read_again(tmp_path):
    write_mnist(tmp_path, mnist_arrays(0), zipped=False)
    first = data.load("mnist", tmp_path)
    write_mnist(tmp_path, mnist_arrays(1, train=13), zipped=False)
    second = data.load("mnist", tmp_path)
    require_equal(second, mnist_arrays(1, train=13))
    assert first.hash != second.hash


def test_the_environment_names_the_folder(tmp_path, monkeypatch):
    write_mnist(tmp_path, mnist_arrays(), zipped=True)
    monkeypatch.setenv("PSGD_DATA", str(tmp_path))
    assert data.load("mnist").name == "mnist"
    monkeypatch.setenv("PSGD_DATA", str(tmp_path / "elsewhere"))
    with pytest.raises(data.Missing, match="elsewhere"):
        data.load("mnist")


DAMAGE = {
    "truncated": ("train-images-idx3-ubyte", lambda raw: raw[:-1], "9408 bytes after its header, got 9407"),
    "too long": ("t10k-labels-idx1-ubyte", lambda raw: raw + b"\0", "5 bytes after its header, got 6"),
    "empty": ("t10k-images-idx3-ubyte", lambda raw: b"", "must begin with the bytes 00000803"),
    "header only begun": ("train-labels-idx1-ubyte", lambda raw: raw[:6], "must begin with"),
    "images for labels": (
        "train-labels-idx1-ubyte",
        lambda raw: idx(np.zeros((2, 28, 28))),
        "must begin with the bytes 00000801 of an IDX file, got 00000803",
    ),
    "a web page": ("train-images-idx3-ubyte", lambda raw: b"<html>not found</html>", "must begin with"),
    "other pixels": (
        "train-images-idx3-ubyte",
        lambda raw: idx(np.zeros((12, 8, 8))),
        "28 x 28 pixels, got 8",
    ),
    "fewer labels": (
        "train-labels-idx1-ubyte",
        lambda raw: idx(np.zeros(11)),
        "each of the 12 images, got 11",
    ),
    "odd labels": ("train-labels-idx1-ubyte", lambda raw: idx(np.full(12, 10)), "labels up to 9, got 10"),
}


@pytest.mark.parametrize("case", DAMAGE)
@pytest.mark.parametrize("zipped", [True, False])
def test_damaged_files_get_one_sentence(tmp_path, case, zipped):
    name, damage, words = DAMAGE[case]
    write_mnist(tmp_path, mnist_arrays(), zipped=zipped)
    path = tmp_path / (f"{name}.gz" if zipped else name)
    raw = path.read_bytes()
    path.write_bytes(gzip.compress(damage(gzip.decompress(raw))) if zipped else damage(raw))
    with pytest.raises(data.Unreadable, match=words) as caught:
        data.load("mnist", tmp_path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda raw: raw[:-12], "ends in the middle"),
        (lambda raw: b"plain bytes", "is not gzipped"),
        (lambda raw: raw[:30] + bytes(40) + raw[70:], "is not gzipped"),
    ],
)
def test_damaged_gzip(tmp_path, damage, words):
    write_mnist(tmp_path, mnist_arrays(), zipped=True)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(data.Unreadable, match=words):
        data.load("mnist", tmp_path)


def test_what_is_missing_is_said(tmp_path):
    (tmp_path / "train-images-idx3-ubyte").write_bytes(b"")  # one of four
    with pytest.raises(data.Missing, match="MNIST is missing; put its four files, train-im") as caught:
        data.resolve("mnist", tmp_path)
    assert str(tmp_path / "mnist") in str(caught.value)
    assert data.available("mnist", tmp_path) is None
    with pytest.raises(data.Missing, match="--data DIR or set PSGD_DATA"):
        data.load("cifar10-jpeg")
    with pytest.raises(ValueError, match="`name` must be one of mnist"):
        data.load("imagenet")


@pytest.mark.parametrize(
    ("name", "folder", "there", "absent"),
    [
        ("ptb", "ptb", ("ptb.train.txt", "ptb.test.txt"), "ptb.valid.txt"),
        ("cifar10", "cifar-10-batches-py", ("data_batch_1", "test_batch"), "data_batch_2, data_batch_3"),
    ],
)
def test_nothing_takes_the_place_of_files_of_which_some_are_there(tmp_path, name, folder, there, absent):
    (tmp_path / "input.txt").write_text("one two three four five " * 50)
    (tmp_path / folder).mkdir()
    for file in there:
        (tmp_path / folder / file).write_bytes(b"a b c " * 100)
    with pytest.raises(data.Missing, match=f"lacks {absent}.* in .*{folder}; add what is missing"):
        data.resolve(name, tmp_path)
    assert data.available(name, tmp_path) is None


# -- CIFAR-10 ------------------------------------------------------------------------------------------


def cifar_batches() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return the six batches, 3 pictures each, as (n, 3072) pixels, colour by colour, and labels."""
    rng = np.random.default_rng(0)
    names = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    return {n: (rng.integers(0, 256, (3, 3072)).astype(np.uint8), rng.integers(0, 10, 3)) for n in names}


def require_cifar(found: data.DataSet) -> None:
    batches = list(cifar_batches().values())
    pixels = np.concatenate([x for x, _ in batches])
    got = np.concatenate([found.train_x, found.test_x])
    assert got.shape == (18, 32, 32, 3)
    for colour in range(3):
        plane = pixels[:, 1024 * colour : 1024 * (colour + 1)].reshape(18, 32, 32)
        np.testing.assert_array_equal(got[..., colour], plane)
    np.testing.assert_array_equal(
        np.concatenate([found.train_y, found.test_y]), np.concatenate([y for _, y in batches])
    )
    assert len(found.test_x) == 3


def test_cifar_in_bytes(tmp_path):
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    for name, (x, y) in cifar_batches().items():
        rows = b"".join(bytes([label]) + row.tobytes() for row, label in zip(x, y, strict=True))
        (folder / f"{name}.bin").write_bytes(rows)
    require_cifar(data.load("cifar10", tmp_path))
    (folder / "test_batch.bin").write_bytes(bytes(3073 + 1))
    with pytest.raises(data.Unreadable, match="multiple of 3073 bytes, got 3074"):
        data.load("cifar10", tmp_path)


def python2_pickle(x: np.ndarray, y: np.ndarray, name: str) -> bytes:
    """Return the opcodes that Python 2 wrote for ``{"batch_label", "labels", "data", "filenames"}``."""

    def text(value: bytes) -> bytes:
        if len(value) < 256:
            return b"U" + bytes([len(value)]) + value + b"q\x09"
        return b"T" + struct.pack("<i", len(value)) + value + b"q\x09"

    def number(value: int) -> bytes:
        return b"K" + bytes([value]) if value < 256 else b"M" + struct.pack("<H", value)

    labels = b"]q\x03(" + b"".join(number(int(label)) for label in y) + b"e"
    array = b"cnumpy.core.multiarray\n_reconstruct\nq\x05cnumpy\nndarray\nq\x06" + number(0) + b"\x85"
    array += text(b"b") + b"\x87Rq\x07(" + number(1) + number(len(y)) + number(3072) + b"\x86"
    array += b"cnumpy\ndtype\n" + text(b"u1") + number(0) + number(1) + b"\x87R(" + number(3) + text(b"|")
    array += b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xff" + number(0) + b"tb\x89" + text(x.tobytes()) + b"tb"
    names = b"]q\x0a(" + b"".join(text(b"picture_%d.png" % i) for i in range(len(y))) + b"e"
    content = text(b"batch_label") + text(name.encode()) + text(b"labels") + labels
    content += text(b"data") + array + text(b"filenames") + names
    return b"\x80\x02}q\x01(" + content + b"u."


@pytest.mark.parametrize("form", ["Python 2", 2, 3, 4, 5])
def test_cifar_for_python(tmp_path, form):
    for name, (x, y) in cifar_batches().items():
        if form == "Python 2":
            raw = python2_pickle(x, y, name)
            assert set(pickle.loads(raw, encoding="bytes")) == {
                b"batch_label",
                b"labels",
                b"data",
                b"filenames",
            }
        else:
            raw = pickle.dumps({b"labels": y.tolist(), b"data": x, b"filenames": [b"a.png"] * 3}, form)
        (tmp_path / name).write_bytes(raw)
    require_cifar(data.load("cifar10", tmp_path))


class Evil:
    def __reduce__(self):
        return (os.system, ("touch executed",))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x80\x02",
        b"no pickle",
        pickle.dumps({b"labels": [1, 2], b"data": bytes(3072)}),
        pickle.dumps({b"labels": [1, -1], b"data": bytes(2 * 3072)}),
        pickle.dumps(Evil()),
    ],
)
def test_odd_batches_are_refused_and_nothing_is_run(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    for name in cifar_batches():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(data.Unreadable, match="data_batch_1"):
        data.load("cifar10", tmp_path)
    assert not (tmp_path / "executed").exists()


def write_jpegs(path: Path, pictures: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:xz") as archive:
        for name, content in pictures.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


def jpeg(colour: tuple[int, int, int], size: tuple[int, int] = (32, 32)) -> bytes:
    image = pytest.importorskip("PIL.Image", reason="needs Pillow")
    file = io.BytesIO()
    image.new("RGB", size, colour).save(file, "JPEG", quality=95)
    return file.getvalue()


def test_cifar_as_jpeg(tmp_path):
    (tmp_path / "cifar10").mkdir()
    red, blue = (200, 10, 10), (10, 10, 200)
    pictures = {
        "train/truck/0001.jpg": jpeg(blue),
        "train/airplane/0000.jpg": jpeg(red),
        "./test/cat/0000.jpg": jpeg(red),
    }
    write_jpegs(tmp_path / "cifar10" / "cifar10-jpeg.tar.xz", pictures)
    found = data.load("cifar10-jpeg", tmp_path)
    np.testing.assert_array_equal(found.train_y, [0, 9])
    np.testing.assert_array_equal(found.test_y, [3])
    wanted = np.array([red, blue])[:, None, None, :] * np.ones((1, 32, 32, 1))
    np.testing.assert_allclose(found.train_x, wanted, atol=4)  # compression loses a few levels


def test_odd_archives(tmp_path):
    path = tmp_path / "cifar10-jpeg.tar.xz"
    for pictures, words in (
        ({"train/cat/0.jpg": jpeg((0, 0, 0)), "train/mouse/0.jpg": jpeg((0, 0, 0))}, "train/mouse/0.jpg"),
        ({"train/cat/0.jpg": jpeg((0, 0, 0), (32, 31))}, "32 x 32"),
        ({"train/cat/0.jpg": b"no picture"}, "cannot be read"),
        (
            {"train/cat/0.jpg": jpeg((0, 0, 0)).replace(b"\0\x20\0\x20", b"\xff\xff\xff\xff")},
            "cannot be read as pictures",  # 4 * 10^9 pixels, which are not decoded
        ),
        ({"train/cat/0.jpg": jpeg((0, 0, 0))}, "pictures in test/, got none"),
    ):
        write_jpegs(path, pictures)
        with pytest.raises(data.Unreadable, match=words):
            data.load("cifar10-jpeg", tmp_path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(data.Unreadable, match="cannot be read"):
        data.load("cifar10-jpeg", tmp_path)


# -- texts and stand-ins -------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "units"), [("text", list), ("text-words", str.split)])
def test_texts(tmp_path, name, units):
    text = "to be or not to be\nthat is the question " * 20
    (tmp_path / "shakespeare_char").mkdir()
    (tmp_path / "shakespeare_char" / "input.txt").write_bytes(text.replace("\n", "\r\n").encode())
    found = data.load(name, tmp_path)
    words = units(text)
    known = sorted(set(words))
    assert found.classes == len(known)
    cut = 9 * len(words) // 10
    assert [known[i] for i in found.train_x] == words[: cut - 1]
    assert [known[i] for i in found.train_y] == words[1:cut]
    assert [known[i] for i in found.test_x] == words[cut:-1]
    assert [known[i] for i in found.test_y] == words[cut + 1 :]


def test_a_mark_at_the_beginning_is_no_character(tmp_path):
    (tmp_path / "input.txt").write_bytes("\ufeff".encode() + b"ab" * 100)
    assert data.load("text", tmp_path).classes == 2


def test_odd_texts(tmp_path):
    (tmp_path / "input.txt").write_bytes(b"abc\xff" * 100)
    with pytest.raises(data.Unreadable, match="UTF-8, is not so at byte 3"):
        data.load("text", tmp_path)
    (tmp_path / "input.txt").write_text("short")
    with pytest.raises(data.Unreadable, match="at least 100 characters, got 5"):
        data.load("text", tmp_path)


def test_digits_stand_in_and_say_so():
    datasets = pytest.importorskip("sklearn.datasets", reason="needs scikit-learn")
    found = data.load("mnist")
    assert found.name == "digits"
    assert "MNIST" in found.stands_in
    assert data.load("digits").stands_in == ""
    assert data.resolve("mnist") == ("digits", found.hash)
    assert found.train_x.shape == (1500, 28, 28)
    assert found.test_x.shape == (297, 28, 28)
    # each pixel of an original covers 3 or 4 in each direction: the corners show all of them
    small = np.concatenate([found.train_x, found.test_x])[:, 1::7][:, :, 1::7]
    original = datasets.load_digits().images
    wanted = {tuple(np.rint(x[::2, ::2].ravel() * 255 / 16).astype(int)) for x in original}
    assert {tuple(x.ravel()) for x in small} == wanted


def test_a_text_stands_in_with_structure_to_learn():
    """The next letter is far more certain given two letters than given none."""
    found = data.load("text")
    assert found.name == "chain"
    tokens = np.append(found.train_x, found.train_y[-1])
    counts = np.zeros((27, 27, 27))
    np.add.at(counts, (tokens[:-2], tokens[1:-1], tokens[2:]), 1)

    def entropy(weights: np.ndarray) -> float:
        p = weights / weights.sum()
        return float(-np.sum(p[p > 0] * np.log(p[p > 0])))

    pairs = counts.sum(2)
    given_two = entropy(counts.ravel()) - entropy(pairs.ravel())
    assert given_two < 0.6 * entropy(counts.sum((0, 1)))


# -- the real ones -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PUBLISHED)
def test_real_data_is_what_was_published(name):
    folder = Path(GIVEN) if GIVEN else None
    if folder is None or data.available(name, folder) is None:
        pytest.skip("PSGD_DATA names no folder with this data set")
    wanted = hashlib.sha256(b"".join(bytes.fromhex(x) for x in PUBLISHED[name])).hexdigest()
    found = data.load(name, folder)
    assert found.hash == wanted
    if name == "mnist":
        assert np.bincount(found.test_y).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
        assert found.train_x.shape == (60_000, 28, 28)
    else:
        assert (found.classes, len(found.train_x) + len(found.test_x)) == (65, 1_115_394 - 2)
