"""Names of files from templates such as `best-{epoch:02d}-{val_loss:.2f}`."""

from __future__ import annotations

from collections.abc import Mapping
from string import Formatter

from ..core.errors import ConfigError


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
        A field that is no name of a value, a format that does not fit its value, a name that would lie in another folder.
    """
    name = ""
    for literal, field, spec, conversion in _parts(template):
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
    return name


def _parts(template: str) -> list[tuple[str, str | None, str | None, str | None]]:
    try:
        return list(Formatter().parse(template))
    except ValueError as error:
        raise ConfigError(
            f"filename {template!r} is no template: {error}; write {{{{ for a brace"
        ) from error
