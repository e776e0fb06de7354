"""The data sets by name: where they are looked for, and what stands in for them."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from . import cifar, idx, perturbed, stand_ins, text
from .files import Arrays, Missing, find, fingerprint

FOLDER_VARIABLE = "PSGD_DATA"
"""The environment variable that holds the folder where none is given."""


@dataclass(frozen=True)
class DataSet:
    """A data set in memory.

    Parameters
    ----------
    name : str
        The stand-in's own, if it is one.
    train_x, train_y, test_x, test_y : arrays
        Images are bytes, (n, 28, 28) or (n, 32, 32, 3), labels integers. A text has integers throughout, and
        y is the x that comes next.
    classes : int
        Or the size of the vocabulary.
    hash : str
        SHA-256 of the contents.
    stands_in : str
        For what, and why, if it is a stand-in; "" otherwise.
    """

    name: str
    train_x: np.ndarray
    train_y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray
    classes: int
    hash: str
    stands_in: str = ""


@dataclass(frozen=True)
class _Source:
    """A data set in files: one of `layouts` (names of files) lies in one of `folders`, or beside them.

    `wanted` says in words which files to get, and where from. Where they are not in the folder that is given,
    the source named by `otherwise` is looked for; where no folder is given, `stand_in` is made.
    """

    title: str
    wanted: str
    folders: tuple[str, ...]
    layouts: tuple[tuple[Sequence[str], Callable[[list[Path]], tuple[Arrays, int]]], ...]
    stand_in: str = ""
    otherwise: str = ""

    def found(self, folder: Path) -> tuple[list[Path], Callable[[list[Path]], tuple[Arrays, int]]] | None:
        for names, read in self.layouts:
            paths = find(self._places(folder), names)
            if paths:
                return paths, read
        return None

    def torn(self, folder: Path) -> str:
        """Return what is missing beside files that are there, "" where there are none of a layout."""
        for place in self._places(folder):
            for names, _ in self.layouts:
                absent = [name for name in names if not find([place], [name])]
                if len(absent) < len(names):
                    return f"{', '.join(absent)} in {place}"
        return ""

    def _places(self, folder: Path) -> list[Path]:
        return [folder / own for own in self.folders] + [folder]


def _ten(read: Callable[[list[Path]], Arrays]) -> Callable[[list[Path]], tuple[Arrays, int]]:
    return lambda paths: (read(paths), 10)


def _noisy(read: Callable[[list[Path]], Arrays]) -> Callable[[list[Path]], Arrays]:
    return lambda paths: perturbed.with_noise(read(paths))


_BATCHES = ("cifar-10-batches-py", "cifar-10-batches-bin")

_CIFAR_FOLDERS = ("cifar10", *_BATCHES, *(f"cifar10/{name}" for name in _BATCHES))
_CIFAR_WANTED = "its batches, for Python or binary, unpacked (https://www.cs.toronto.edu/~kriz/cifar.html)"
_CIFAR: tuple[tuple[Sequence[str], Callable[[list[Path]], Arrays]], ...] = (
    (cifar.PYTHON, lambda paths: cifar.read(paths, cifar.python_batch)),
    (cifar.BINARY, lambda paths: cifar.read(paths, cifar.binary_batch)),
)
_JPEG_WANTED = f"{cifar.ARCHIVES[0]}, with train/<class>/<number>.jpg and test/ likewise"
_JPEG = tuple(((archive,), cifar.read_jpeg) for archive in cifar.ARCHIVES)

_SOURCES = {
    "mnist": _Source(
        "MNIST",
        "its four files, train-images-idx3-ubyte and so on, gzipped or not (http://yann.lecun.com/exdb/mnist),",
        ("mnist", "MNIST/raw"),
        ((idx.NAMES, _ten(idx.read)), (idx.DOTTED, _ten(idx.read))),
        "digits",
    ),
    "cifar10": _Source(
        "CIFAR-10",
        f"{_CIFAR_WANTED},",
        _CIFAR_FOLDERS,
        tuple((names, _ten(read)) for names, read in _CIFAR),
        "digits-colour",
        "cifar10-jpeg",
    ),
    "cifar10-jpeg": _Source(
        "CIFAR-10 as JPEG files",
        f"{_JPEG_WANTED},",
        ("cifar10",),
        tuple((names, _ten(read)) for names, read in _JPEG),
    ),
    "cifar10-perturbed": _Source(
        "CIFAR-10 perturbed by NTGA",
        f"its arrays, {', '.join(perturbed.LAYOUTS[0])} (https://github.com/lionelmessi6410/ntga),",
        ("cifar10-perturbed", "ntga_cnn_best"),
        tuple((names, _ten(perturbed.read)) for names in perturbed.LAYOUTS),
        "digits-noise",
        "cifar10-noise",
    ),
    "cifar10-noise": _Source(
        "CIFAR-10, a fifth of it clean and the rest with noise",
        f"{_CIFAR_WANTED},",
        _CIFAR_FOLDERS,
        tuple((names, _ten(_noisy(read))) for names, read in _CIFAR),
        otherwise="cifar10-jpeg-noise",
    ),
    "cifar10-jpeg-noise": _Source(
        "CIFAR-10 as JPEG files, a fifth of it clean and the rest with noise",
        f"{_JPEG_WANTED},",
        ("cifar10",),
        tuple((names, _ten(_noisy(read))) for names, read in _JPEG),
    ),
    "text": _Source(
        "A text",
        f"{text.NAMES[0]}, such as tiny Shakespeare (https://github.com/karpathy/char-rnn),",
        ("shakespeare_char", "text"),
        tuple(((name,), lambda paths: text.read(paths[0], "characters")) for name in text.NAMES),
        "chain",
    ),
    "text-words": _Source(
        "A text",
        f"{text.NAMES[0]}, such as tiny Shakespeare (https://github.com/karpathy/char-rnn),",
        ("shakespeare_char", "text"),
        tuple(((name,), lambda paths: text.read(paths[0], "words")) for name in text.NAMES),
        "chain",
    ),
    "ptb": _Source(
        "Penn Treebank",
        "its three files as Mikolov prepared them, ptb.train.txt and so on,",
        ("ptb", "penn"),
        ((text.TREEBANK, text.treebank),),
        "chain",
        "plain-words",
    ),
    "plain-words": _Source(
        "A text in the form of Penn Treebank",
        f"{text.NAMES[0]}, such as tiny Shakespeare (https://github.com/karpathy/char-rnn),",
        ("shakespeare_char", "text"),
        tuple(((name,), lambda paths: text.plain_words(paths[0])) for name in text.NAMES),
        "chain",
    ),
    "tokens": _Source(
        "OpenWebText as tokens",
        "train.bin and val.bin, as nanoGPT prepares them (https://github.com/karpathy/nanoGPT),",
        ("openwebtext", "tokens"),
        ((text.TOKENS, text.tokens),),
        "chain",
    ),
}

_MADE: dict[str, tuple[Callable[[], Arrays], int, str]] = {
    "digits": (stand_ins.digits, 10, "scikit-learn's digits, enlarged to 28 x 28"),
    "digits-colour": (
        stand_ins.coloured_digits,
        10,
        "scikit-learn's digits, enlarged to 32 x 32 and in random colours",
    ),
    "digits-noise": (
        lambda: perturbed.with_noise(stand_ins.coloured_digits()),
        10,
        "scikit-learn's digits in colour, a fifth of them clean and the rest with noise",
    ),
    "chain": (lambda: text.split(stand_ins.chain()), stand_ins.LETTERS, "letters of a Markov chain"),
}
"""Those that need no files: what makes them, their classes, what they are."""

MADE = tuple(_MADE)
NAMES = (*_SOURCES, *_MADE)


def load(name: str, folder: Path | None = None) -> DataSet:
    """Return a data set, or what stands in for it where no folder is given.

    Parameters
    ----------
    name : str
        One of `NAMES`. "cifar10" is the usual batches, or the JPEG files where only these are there, which
        "cifar10-jpeg" asks for; "cifar10-perturbed" is NTGA's arrays, or else CIFAR-10 with noise; "text" has
        characters; "ptb" is Penn Treebank, or where only a text is there its words in that form; "tokens"
        stays in its files.
    folder : Path, optional
        Where the data sets are; by default what the environment variable PSGD_DATA says.

    Raises
    ------
    Missing
        If it is not there.
    Unreadable
        If a file is damaged or is something else.
    """
    actual, mark = resolve(name, folder)
    return _loaded(name, actual, mark, _folder(folder))


def available(name: str, folder: Path | None = None) -> str | None:
    """Return the name of the data set that `load` would return, its own or a stand-in's, or None."""
    try:
        return _located(name, _folder(folder))[0]
    except Missing:
        return None


def resolve(name: str, folder: Path | None = None) -> tuple[str, str]:
    """Return name and hash of the data set that `load` would return; each file is read once in a process."""
    actual, paths = _located(name, _folder(folder))
    return actual, fingerprint(paths) if paths else _made(actual)[1]


def _folder(folder: Path | None) -> Path | None:
    given = os.environ.get(FOLDER_VARIABLE)
    return folder if folder is not None else Path(given) if given else None


def _located(name: str, folder: Path | None) -> tuple[str, list[Path]]:
    """Return the name of what is there, and its files; none for those that are made."""
    if name in _MADE:
        return name, []
    if name not in _SOURCES:
        raise ValueError(f"`name` must be one of {', '.join(NAMES)}, got {name!r}")
    source = _SOURCES[name]
    while folder is not None:
        found = _SOURCES[name].found(folder)
        if found:
            return name, found[0]
        if not _SOURCES[name].otherwise:
            break
        if torn := _SOURCES[name].torn(folder):  # what is meant is clear: nothing takes its place unsaid
            raise Missing(
                f"{_SOURCES[name].title} lacks {torn}; add what is missing, or move away the rest of it"
            )
        name = _SOURCES[name].otherwise
    if folder is None and source.stand_in:
        return source.stand_in, []
    where = f"{folder / source.folders[0]} or {folder}" if folder else f"DIR/{source.folders[0]} or DIR"
    given = "" if folder else f", and give --data DIR or set {FOLDER_VARIABLE}"
    raise Missing(f"{source.title} is missing; put {source.wanted} into {where}{given}")


@functools.lru_cache(maxsize=4)
def _loaded(name: str, actual: str, mark: str, folder: Path | None) -> DataSet:
    """Return a data set; the hash is an argument so that files that have changed are read again."""
    if actual in _MADE:
        _, classes, about = _MADE[actual]
        stands_in = (
            "" if actual == name else f"{about} stand in for {_SOURCES[name].title}: no data was given"
        )
        return DataSet(actual, *_made(actual)[0], classes, mark, stands_in)
    found = _SOURCES[actual].found(folder) if folder is not None else None
    assert found is not None
    paths, read = found
    arrays, classes = read(paths)
    titles = [_SOURCES[which].title for which in (actual, name)]
    stands_in = "" if actual == name else f"{titles[0]} stands in for {titles[1]}: only that is there"
    return DataSet(actual, *arrays, classes, mark, stands_in)


@functools.cache
def _made(name: str) -> tuple[Arrays, str]:
    arrays = _MADE[name][0]()
    content = hashlib.sha256()
    for array in arrays:
        content.update(np.ascontiguousarray(array).tobytes())
    return arrays, content.hexdigest()
