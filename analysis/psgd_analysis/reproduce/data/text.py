"""Texts as numbers: characters, words, or tokens that the user has; the last part to test on."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from .files import Arrays, Unreadable, contents

NAMES = ("input.txt", "text.txt")
TREEBANK = ("ptb.train.txt", "ptb.valid.txt", "ptb.test.txt")
TOKENS = ("train.bin", "val.bin")

RARE = 5
"""Words that are seen less often than this become `UNKNOWN` in the form of Penn Treebank."""

END, UNKNOWN = "<eos>", "<unk>"
"""Of lines, and of words that are too rare."""


def codes(text: str, level: Literal["characters", "words"]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the text as numbers of its distinct characters or words, and these in order."""
    units: Sequence[str] = text if level == "characters" else text.split()
    vocabulary = tuple(sorted(set(units)))
    number = {unit: i for i, unit in enumerate(vocabulary)}
    return np.fromiter((number[unit] for unit in units), np.int64, len(units)), vocabulary


def split(tokens: np.ndarray) -> Arrays:
    """Return what to train on and what comes next, and the same of the last tenth."""
    train, test = np.split(tokens, [9 * len(tokens) // 10])
    return _next(train, test)


def read(path: Path, level: Literal["characters", "words"]) -> tuple[Arrays, int]:
    """Return the arrays of a text file in UTF-8, and the size of its vocabulary.

    Line ends count as one character, whatever system wrote the file.
    """
    tokens, vocabulary = codes(_decoded(path), level)
    if len(tokens) < 100:
        raise Unreadable(path, f"must have at least 100 {level}, got {len(tokens)}")
    return split(tokens), len(vocabulary)


def _decoded(path: Path) -> str:
    try:
        return contents(path).decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise Unreadable(path, f"must be text in UTF-8, is not so at byte {error.start}") from error


def treebank(paths: list[Path]) -> tuple[Arrays, int]:
    """Return the arrays of Penn Treebank, and the size of the vocabulary of all its three files.

    Each line ends in `END`. The file for validation gives its words only.
    """
    train, valid, test = (
        [w for line in _decoded(p).splitlines() for w in (*line.split(), END)] for p in paths
    )
    for path, words in zip(paths, (train, valid, test), strict=True):
        if len(words) < 100:
            raise Unreadable(path, f"must have at least 100 words, got {len(words)}")
    number = {word: i for i, word in enumerate(sorted({*train, *valid, *test}))}
    return _next(_coded(train, number), _coded(test, number)), len(number)


def plain_words(path: Path) -> tuple[Arrays, int]:
    """Return the words of a text in the form of Penn Treebank, and the size of their vocabulary.

    They are in small letters and without punctuation; each line that has words ends in `END`, and words that
    are seen less than `RARE` times in the first nine tenths are `UNKNOWN`.
    """
    lines = [re.findall(r"[^\W\d_]+(?:['’][^\W\d_]+)*", line.lower()) for line in _decoded(path).splitlines()]
    words = [word for line in lines if line for word in (*line, END)]
    if len(words) < 100:
        raise Unreadable(path, f"must have at least 100 words, got {len(words)}")
    cut = 9 * len(words) // 10
    known = sorted(word for word, count in Counter(words[:cut]).items() if count >= RARE)
    number = {word: i for i, word in enumerate([*known, UNKNOWN])}
    plain = [word if word in number else UNKNOWN for word in words]
    return split(_coded(plain, number)), len(number)


def tokens(paths: list[Path]) -> tuple[Arrays, int]:
    """Return arrays of 16-bit tokens that stay in their files, and the size of the vocabulary.

    The files hold nothing else, as those of nanoGPT; the vocabulary ends with the largest token.
    """
    parts = []
    for path in paths:
        size = path.stat().st_size
        if path.suffix == ".gz" or size % 2 or size < 200:
            raise Unreadable(path, f"must be 100 tokens of 16 bits or more, not gzipped, got {size} bytes")
        parts.append(np.memmap(path, "<u2", mode="c"))  # PyTorch wants to be able to write
    return _next(*parts), 1 + max(int(part.max()) for part in parts)


def _coded(words: Iterable[str], number: dict[str, int]) -> np.ndarray:
    return np.fromiter((number[word] for word in words), np.int64)


def _next(train: np.ndarray, test: np.ndarray) -> Arrays:
    """Return what comes, and what comes next, of both parts."""
    return train[:-1], train[1:], test[:-1], test[1:]
