"""The look of all figures: colours that differ to colour-blind readers and in print, titles and grids.

A method has one colour in all figures, which its name decides: `color_of` finds it, and `styles` tells apart
those that are drawn together. Matplotlib is imported where a figure is drawn, never with the package; its
global settings are left alone.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

COLORS = {
    "blue": "#0072B2",
    "vermilion": "#D55E00",
    "green": "#009E73",
    "purple": "#CC79A7",
    "orange": "#E69F00",
    "sky": "#56B4E9",
    "black": "#000000",
    "wine": "#882255",
    "grey": "#7F7F7F",
    "indigo": "#332288",
    "teal": "#44AA99",
    "olive": "#999933",
    "brown": "#8C564B",
    "silver": "#B3B3B3",
}
"""Okabe and Ito's palette without its yellow, too pale for lines; and more, most of them Paul Tol's."""

LINES = tuple(COLORS[name] for name in ("blue", "vermilion", "green", "purple", "orange", "sky"))
"""For curves that other things than methods tell apart, the strongest contrasts first."""

PRECONDITIONERS = {
    "Diagonal": "black",
    "XMat": "blue",
    "Butterfly": "sky",
    "Sparse": "green",
    "Kronecker": "orange",
    "LowRank": "wine",
    "Dense": "vermilion",
}
"""The colour of each family; no other method has it."""

METHODS = {word: COLORS[color] for word, color in PRECONDITIONERS.items()} | {
    word: COLORS[color]
    for color, words in {
        # other names of the families, as tables have them
        "green": ("Klein four", "neighbour swap", "cyclic", "dihedral"),
        "orange": ("affine",),
        "wine": ("LRA",),
        # estimates of the diagonal or of blocks from running means
        "indigo": ("ClosedForm", "closed form", "AdaHessian"),
        "grey": ("SGD",),
        "olive": ("Adam", "AdamW", "AdaBound", "Adan", "Padam", "RAdam", "Yogi", "Apollo"),
        "teal": ("AdaBelief",),
        "brown": ("KFAC", "Shampoo", "SOAP", "Muon"),
        "purple": ("BFGS", "Hessian-free"),
    }.items()
    for word in words
}
"""Colours by words of a name: relatives share one."""

LIBRARIES = {
    "psgd_torch": COLORS["brown"],
    "psgd-jax": COLORS["teal"],
    "heavyball": COLORS["purple"],
    "kron-torch": COLORS["olive"],
    "pytorch_optimizer": COLORS["indigo"],
    "torch": COLORS["grey"],
    "torch.compile": COLORS["silver"],
}
"""Colours of other libraries, whatever they fit."""

OTHERS = tuple(COLORS[name] for name in ("indigo", "olive", "purple", "teal", "brown", "grey"))
"""For names of no method: colours that no preconditioner has."""

_WORDS = METHODS | LIBRARIES
_NAMED = re.compile(rf"(?<!\w)({'|'.join(map(re.escape, sorted(_WORDS, key=len, reverse=True)))})(?!\w)")

DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1, 1.2)), (0, (5, 1, 1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
SHADES = 5


def color_of(name: str) -> str | None:
    """Return the colour of the first method or library that a name names; None if it names none.

    "PSGD" alone is `LowRank`, as in the paper's experiments.
    """
    if found := _NAMED.search(name):
        return _WORDS[found.group(1)]
    return METHODS["LowRank"] if re.search(r"\bPSGD\b", name) else None


def styles(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return colour, line and marker of each name; up to 28 differ without colours too.

    Colours are those of `color_of`, and `OTHERS` in turn for names of no method. Of names of one method, the
    later ones are paler.
    """
    found: dict[str, dict[str, Any]] = {}
    alike: Counter[str] = Counter()
    others = 0
    for i, name in enumerate(dict.fromkeys(names)):
        base = color_of(name)
        if base is None:
            base, others = OTHERS[others % len(OTHERS)], others + 1
        found[name] = {
            "color": paler(base, alike[base] % SHADES),
            "linestyle": DASHES[i % len(DASHES)],
            "marker": MARKERS[i % len(MARKERS)],
        }
        alike[base] += 1
    return found


def paler(base: str, times: int) -> str:
    """Return a colour with its distance from white a quarter less for each of `times`."""
    channels = (int(base[i : i + 2], 16) for i in (1, 3, 5))
    return "#" + "".join(f"{round(255 - (255 - x) * 0.75**times):02X}" for x in channels)


def finish(ax: Any, title: str, xlabel: str, ylabel: str) -> Any:
    """Set title and labels, draw a faint grid, and return the axes."""
    ax.set_title(title, fontsize=10, loc="left")
    ax.set_xlabel(xlabel, fontsize=9)
    ax.set_ylabel(ylabel, fontsize=9)
    ax.tick_params(labelsize=8)
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(True, which="major", color="0.93", linewidth=0.7)
    ax.set_axisbelow(True)
    return ax
