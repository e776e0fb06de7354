"""Data sets by name, from folders of the user; nothing is downloaded.

`load` reads one; `resolve` says which one that will be, and its hash, when runs are planned. Where no folder
is given, stand-ins that need no files take the place of MNIST and of texts, and say so.
"""

from .files import Missing, Unreadable
from .sets import FOLDER_VARIABLE, MADE, NAMES, DataSet, available, load, resolve

__all__ = [
    "FOLDER_VARIABLE",
    "MADE",
    "NAMES",
    "DataSet",
    "Missing",
    "Unreadable",
    "available",
    "load",
    "resolve",
]
