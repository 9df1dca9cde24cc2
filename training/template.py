"""Names of files from templates such as `best-{epoch:02d}-{val_loss:.2f}`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from string import Formatter

from ..core.errors import ConfigError

_PREFIXES = ("val_", "train_")
# In bytes, chosen: file systems take 255, with `crossing-`, a version, `.safetensors` and what a temporary name has more.
_LONGEST = 200


def file_name(template: str, values: Mapping[str, float], *, insert_names: bool = True) -> str:
    """Fill a template in as Lightning does: `{epoch:02d}` becomes `epoch=03`.

    Parameters
    ----------
    template
        Text with fields of Python's format strings.
    values
        What the fields may name; whole numbers stay whole.
    insert_names
        Whether the name and `=` come before each value.

    Raises
    ------
    ConfigError
        A field that is no name of a value, a format that does not fit its value, a name that would lie in another folder or is too long.
    """
    name = ""
    for literal, field, spec, conversion in fields_of(template):
        name += literal
        if field is None:
            continue
        if field not in values:
            known = ", ".join(sorted(values))
            raise ConfigError(
                f"filename {template!r} names {{{field}}}, which is not measured; known are {known}."
                " Give it to step(), or take it out of the template"
            )
        try:
            text = format(values[field], f"{spec}")
        except ValueError as error:
            raise ConfigError(
                f"filename {template!r}: {{{field}:{spec}}} does not fit {values[field]!r} ({error})"
            ) from error
        if conversion:
            raise ConfigError(
                f"filename {template!r}: !{conversion} is not understood; use a format such as {{{field}:.2f}}"
            )
        name += f"{field}={text}" if insert_names else text
    if "/" in name or "\0" in name or name in {"", ".", ".."}:
        raise ConfigError(
            f"filename {template!r} gives {name!r}, which is no name of a file in dirpath;"
            " auto_insert_metric_name=False leaves the names of metrics out"
        )
    if len(name.encode()) > _LONGEST:
        raise ConfigError(
            f"filename {template!r} gives a name of {len(name.encode())} bytes; expected {_LONGEST} at most. Make it shorter"
        )
    return name


def also_known(names: Iterable[str]) -> dict[str, str]:
    """Return the names by which quantities go beside their own, and which one each means.

    `loss` is `val_loss` and `train_loss` too, and each of those is `loss`, where only one of the three is given.

    Examples
    --------
    >>> also_known(["val_loss", "accuracy"])
    {'loss': 'val_loss', 'val_accuracy': 'accuracy', 'train_accuracy': 'accuracy'}
    """
    given = list(names)
    also: dict[str, str] = {}
    for name in given:
        prefix = next((one for one in _PREFIXES if name.startswith(one)), "")
        plain = name.removeprefix(prefix)
        prefixed = [f"{one}{plain}" for one in _PREFIXES]
        if sum(one in given for one in (plain, *prefixed)) == 1:
            also |= dict.fromkeys([plain] if prefix else prefixed, name)
    return also


def fields_of(template: str) -> list[tuple[str, str | None, str | None, str | None]]:
    """Return literal text, name, format and conversion of each field; a ConfigError says what is no template."""
    try:
        return list(Formatter().parse(template))
    except ValueError as error:
        raise ConfigError(
            f"filename {template!r} is no template: {error}; write {{{{ for a brace"
        ) from error
