"""`tocsin leakage TRAIN TEST`: whether rows, groups, times or the label of a split leak, and which rows do."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from ..core.columns import Ints, groups
from ..detectors.coincidence import Law, leaked
from ..detectors.fingerprints import KeyIndex
from ..detectors.leaky_features import COPY, MAYBE, MORE, Leaky, leaky
from ..detectors.string_index import StringIndex
from ..producers.files import Columns
from .console import plain_console, printable, table_of
from .split import Roles, Side, Split

_SHOWN: Final = 10  # of each finding; all are in the JSON


class Finding(NamedTuple):
    """What one check found.

    Parameters
    ----------
    check
        `exact duplicates`, `near duplicates`, `group COLUMN`, `time COLUMN`.
    is_found
        Whether it is a leak, rather than what chance makes of rows that are much alike.
    rows
        Rows of the test file.
    by_chance
        Share of the test file's rows that would be, None where there is no such thing.
    crossings
        What is named, each with rows of both files.
    said
        The same in words, one line each.
    """

    check: str
    is_found: bool
    rows: Ints
    by_chance: float | None
    crossings: list[dict[str, Any]]
    said: list[str]


def run(
    train: Path,
    test: Path,
    columns: Columns | None = None,
    group: Sequence[str] = (),
    *,
    as_json: bool = False,
) -> int:
    """Compare the files and print what leaks; return 1 if anything does, else 0.

    Parameters
    ----------
    train, test
        See `producers.files.rows`.
    columns
        Which hold what; those of predictions, scores and ids may be in one file only. All others are features, or are told by
        what they hold.
    group
        Columns whose values must not be in both files.
    as_json
        Print all that is known.

    Raises
    ------
    ConfigError
        A file cannot be read, or a column is not there.
    """
    roles = Roles.of(train, test, columns or Columns(), group)
    split = Split(roles)
    before, after = split.read(train), split.read(test)
    found = [*_duplicates(before, after)]
    found += [_groups(name, split.names[name], before, after) for name in roles.groups]
    if roles.time is not None:
        found.append(_times(roles.time, before, after))
    telling = _telling(before, after)
    is_found = any(finding.is_found for finding in found) or _is_leak(telling)
    if as_json:
        print(json.dumps(_report(train, test, roles, before, after, found, telling), indent=2))
    else:
        _print(train, test, roles, before, after, found, telling)
    return int(is_found)


def _telling(train: Side, test: Side) -> list[Leaky]:
    """Return the features that tell the label too well, each once. Neither file is known to be right: what tells it in both may be honest."""
    if train.labels is None or test.labels is None:
        return []
    found: dict[str, Leaky] = {}
    for claim in (*leaky(train.labels, test.labels), *leaky(test.labels, train.labels)):
        if claim.why == MAYBE and claim.feature in train.copies | test.copies:
            claim = claim._replace(why=COPY)  # noqa: PLW2901
        if claim.feature not in found or found[claim.feature].why == MAYBE:
            found[claim.feature] = claim
    return list(found.values())


def _is_leak(telling: list[Leaky]) -> bool:
    return any(claim.why != MAYBE for claim in telling)


def _duplicates(train: Side, test: Side) -> list[Finding]:
    """Return the rows of the test file that are rows of the training file, exactly and nearly."""
    n = len(train)
    exact, near = KeyIndex.of(train.keys.exact, n), KeyIndex.of_near(train.keys, n)
    same, alike = exact.find(test.keys.exact), near.find_near(test.keys)
    alike[same >= 0] = -1
    return [
        _duplicate("exact duplicates", exact, same, exact.law.pairs, len(test)),
        _duplicate("near duplicates", near, alike, near.law.pairs - exact.law.pairs, len(test)),
    ]


def _duplicate(check: str, index: KeyIndex, places: Ints, pairs: int, of: int) -> Finding:
    rows = np.flatnonzero(places >= 0)
    is_unique = index.unique[places[rows]]
    _, hits = np.unique(places[rows][is_unique], return_counts=True)
    leak = leaked(index.law, of, hits, int((~is_unique).sum()))
    # Where no two rows of training are alike, none is like one of them by chance.
    is_leak = len(rows) > 0 and (
        _is_plain(index.law, pairs) or (leak is not None and leak.rate.low > 0)
    )
    twins = index.first[places[rows]].tolist()
    crossings = [
        {"test_row": row, "train_row": twin} for row, twin in zip(rows.tolist(), twins, strict=True)
    ]
    said = [f"test row {c['test_row']:,} is train row {c['train_row']:,}" for c in crossings]
    return Finding(
        check, is_leak, rows, None if leak is None else leak.by_chance, crossings, said
    )  # fmt: skip


def _is_plain(law: Law, pairs: int) -> bool:
    return pairs <= 0 and law.unique > law.rows // 2


def _groups(name: str, names: StringIndex, train: Side, test: Side) -> Finding:
    """Return the groups that have rows in both files."""
    there = dict(groups(train.groups[name]))
    crossings = []
    for code, rows in groups(test.groups[name]):
        if code in there:
            crossings.append(
                {
                    "value": names[code],
                    "train_rows": there[code].tolist(),
                    "test_rows": rows.tolist(),
                }
            )
    rows = np.array(sorted(row for c in crossings for row in c["test_rows"]), np.int64)
    said = [
        f"{printable(c['value'])}: train rows {_some(c['train_rows'])}; test rows {_some(c['test_rows'])}"
        for c in crossings
    ]
    return Finding(f"group {name}", bool(crossings), rows, None, crossings, said)


def _times(name: str, train: Side, test: Side) -> Finding:
    """Return the rows of the test file that are earlier than the last row of the training file."""
    check = f"time {name}"
    if not train.timed.any() or not test.timed.any():
        return Finding(check, False, np.empty(0, np.int64), None, [], [])
    last = int(train.times.argmax())
    first = int(np.where(test.timed, test.times, np.iinfo(np.int64).max).argmin())
    rows = np.flatnonzero(test.timed & (test.times < train.times[last]))
    late = np.flatnonzero(train.timed & (train.times > test.times[first]))
    if not len(rows):
        return Finding(check, False, rows, None, [], [])
    ours, theirs = late.tolist(), rows.tolist()
    crossing = {
        "last_train_row": last, "first_test_row": first, "train_rows": ours, "test_rows": theirs,
    }  # fmt: skip
    said = [
        f"test rows {_some(theirs)} are before train row {last:,}, the last",
        f"train rows {_some(ours)} are after test row {first:,}, the first",
    ]
    return Finding(check, True, rows, None, [crossing], said)


def _some(rows: list[int]) -> str:
    shown = ", ".join(f"{row:,}" for row in rows[:_SHOWN])
    return shown + (f" and {len(rows) - _SHOWN:,} more" if len(rows) > _SHOWN else "")


def _report(
    train: Path,
    test: Path,
    roles: Roles,
    before: Side,
    after: Side,
    found: list[Finding],
    telling: list[Leaky],
) -> dict[str, Any]:
    """Return all that is known, for machines."""
    return {
        "train": {"file": train.name, "rows": len(before)},
        "test": {"file": test.name, "rows": len(after)},
        "label": roles.label,
        "compared": [*roles.numbers, *roles.texts],
        "left_out": roles.left_out,
        "found": any(finding.is_found for finding in found) or _is_leak(telling),
        "checks": [
            {
                "check": finding.check, "found": finding.is_found, "test_rows": len(finding.rows),
                "by_chance": finding.by_chance, "crossings": finding.crossings,
            }
            for finding in found
        ],
        "leaky_features": [
            {
                "feature": claim.feature, "by": claim.by, "why": claim.why,
                "value": claim.value._asdict(),
                "before": None if claim.before is None else claim.before._asdict(),
            }
            for claim in telling
        ],
    }  # fmt: skip


def _print(
    train: Path,
    test: Path,
    roles: Roles,
    before: Side,
    after: Side,
    found: list[Finding],
    telling: list[Leaky],
) -> None:
    console = plain_console()
    console.width = max(console.width, 120)

    def say(line: str) -> None:
        console.print(printable(line), soft_wrap=True)

    say(f"{train.name}: {len(before):,} rows; {test.name}: {len(after):,} rows")
    say(f"compared: {', '.join([*roles.numbers, *roles.texts])}")
    if roles.is_labelled:
        say(f"label: {roles.label or 'that of the events'}")
    for reason in sorted(set(roles.left_out.values())):
        names = [name for name, why in roles.left_out.items() if why == reason]
        say(f"left out, {reason}: {', '.join(names)}")
    table = table_of("check", "test rows", "share", "by chance", "leak", left=["check", "leak"])
    for finding in found:
        chance = "-" if finding.by_chance is None else f"{finding.by_chance:.2%}"
        table.add_row(
            printable(finding.check), f"{len(finding.rows):,}", f"{len(finding.rows) / len(after):.2%}",
            chance, "yes" if finding.is_found else "no",
        )  # fmt: skip
    if roles.is_labelled:
        said = "yes" if _is_leak(telling) else "may be" if telling else "no"
        table.add_row("leaky features", "-", "-", "-", said)
    console.print()
    console.print(table)
    for finding in found:
        if finding.is_found:
            console.print()
            say(f"{finding.check}:")
            for line in finding.said[:_SHOWN]:
                say(f"  {line}")
            if len(finding.said) > _SHOWN:
                say(f"  and {len(finding.said) - _SHOWN:,} more; --json has all")
    if telling:
        console.print()
        say("leaky features:")
        for claim in telling:
            what = (
                "area under the curve" if claim.by == "auc" else "share of the label's information"
            )
            say(f"  {claim.feature}: {what} {claim.value.value:.3f}, {_why(claim)}")


def _why(claim: Leaky) -> str:
    other = "" if claim.before is None else f"in the other file {claim.before.value:.3f}"
    if claim.why == MORE:
        return other
    if claim.why == COPY:
        return "the label itself, or a copy of it"
    return f"{other}: may be a leak; it is none if the feature is known before the label"


__all__ = ["Columns", "Finding", "run"]
