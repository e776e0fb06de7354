"""Configurations as text, to compare that of a saved state with another."""

from __future__ import annotations

import hashlib
from dataclasses import fields, is_dataclass
from typing import Any

_LONG = 200  # characters of a field, beyond which its checksum is kept instead


class Misfit(ValueError):
    """The file does not fit what `load` was given; `load` adds the file's name."""


def fingerprint(config: Any) -> dict[str, Any]:
    """Return the class of a dataclass and its fields, as text or, where that is long, as its checksum."""
    if not is_dataclass(config) or isinstance(config, type):
        raise TypeError(
            f"`config` must be a dataclass instance such as psgd_core.XMat(), got {config!r}; "
            "put anything else in `metadata`"
        )
    texts = {field.name: text_of(getattr(config, field.name)) for field in fields(config)}
    for name, text in texts.items():
        if len(text) > _LONG:
            texts[name] = f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
    return {"class": type(config).__name__, "fields": texts}


def is_fingerprint(x: Any) -> bool:
    """Return whether this is None or has the form of a `fingerprint`."""
    if x is None:
        return True
    if type(x) is not dict or set(x) != {"class", "fields"} or type(x["fields"]) is not dict:
        return False
    return all(type(text) is str for text in (x["class"], *x["fields"].values()))


def text_of(x: Any) -> str:
    """Return `x` as text: a `repr` that neither abbreviates nor shows an address."""
    if is_dataclass(x) and not isinstance(x, type):
        parts = ", ".join(f"{field.name}={text_of(getattr(x, field.name))}" for field in fields(x))
        return f"{type(x).__name__}({parts})"
    if type(x) in (tuple, list):
        return f"{type(x).__name__}({', '.join(map(text_of, x))})"
    if type(x) is dict:
        return f"dict({', '.join(f'{key!r}: {text_of(value)}' for key, value in x.items())})"
    if hasattr(x, "__qualname__"):  # functions: told apart by name only
        return f"{x.__module__}.{x.__qualname__}"
    return type(x).__qualname__ if repr(x) == object.__repr__(x) else repr(x)


def compare(saved: dict[str, Any] | None, given: dict[str, Any]) -> None:
    """Raise, naming the first thing that differs."""
    advice = "use the configuration that was saved"
    if saved is None:
        raise Misfit("it was saved without a configuration to compare with `config`; leave `config` out")
    if saved["class"] != given["class"]:
        raise Misfit(f"it belongs to {saved['class']}, got {given['class']} as `config`; {advice}")
    for name in sorted({*saved["fields"], *given["fields"]}):
        old, new = (side["fields"].get(name, "missing") for side in (saved, given))
        if old != new:
            raise Misfit(f"its {saved['class']} has {name} = {old}, got {new} in `config`; {advice}")
