"""Texts as numbers: characters or words, the first nine tenths to train on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from .files import Arrays, Unreadable, contents

NAMES = ("input.txt", "text.txt")


def codes(text: str, level: Literal["characters", "words"]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the text as numbers of its distinct characters or words, and these in order."""
    units: Sequence[str] = text if level == "characters" else text.split()
    vocabulary = tuple(sorted(set(units)))
    number = {unit: i for i, unit in enumerate(vocabulary)}
    return np.fromiter((number[unit] for unit in units), np.int64, len(units)), vocabulary


def split(tokens: np.ndarray) -> Arrays:
    """Return what to train on and what comes next, and the same of the last tenth."""
    train, test = np.split(tokens, [9 * len(tokens) // 10])
    return train[:-1], train[1:], test[:-1], test[1:]


def read(path: Path, level: Literal["characters", "words"]) -> tuple[Arrays, int]:
    """Return the arrays of a text file in UTF-8, and the size of its vocabulary.

    Line ends count as one character, whatever system wrote the file.
    """
    try:
        text = contents(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Unreadable(path, f"must be text in UTF-8, is not so at byte {error.start}") from error
    tokens, vocabulary = codes(text.replace("\r\n", "\n"), level)
    if len(tokens) < 100:
        raise Unreadable(path, f"must have at least 100 {level}, got {len(tokens)}")
    return split(tokens), len(vocabulary)
