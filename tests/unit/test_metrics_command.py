"""What `tocsin metrics` prints, whatever names senders have made up."""

from __future__ import annotations

import doctest
import io
from math import nan

import pytest
from rich.console import Console

from tocsin.cli import metrics
from tocsin.cli.metrics import (
    Column,
    _check,
    _columns,
    _not_shown,
    _print,
    _shown,
    _span,
    _that_fit,
    _windows,
)
from tocsin.consumers.metric_series import over_time
from tocsin.core.errors import ConfigError
from tocsin.core.metric_row import MetricRow, decode, encode, finite


def row(day: int, **changed: object) -> MetricRow:
    of: dict[str, object] = {
        "environment": "production", "group": "", "begin": f"2026-01-{day:02}T00:00:00+00:00",
        "end": f"2026-01-{day + 1:02}T00:00:00+00:00", "predictions": 100, "labels": 80,
        "label_coverage_ratio": 0.8, "closed": False, "revised": 0,
        "metrics": {"recall": (0.8, 0.7, 0.9, 0.0)},
    }  # fmt: skip
    return MetricRow(**(of | changed))  # type: ignore[arg-type]


def printed(rows: list[MetricRow], title: str = "all", width: int = 120) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    _print(console, rows, _columns(rows, []), title, draws=True)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_what_is_not_known_is_said_to_be_and_leaves_a_gap_in_the_picture() -> None:
    shown = printed([row(1), row(2, metrics={}), row(3, metrics={"recall": (0.6, 0.5, 0.7, 0.0)})])
    assert shown.count("unknown") == 1
    assert [line.index("●") for line in shown.splitlines() if "●" in line] == [10, 14]


def test_an_interval_that_is_not_known_is_said_to_be_beside_its_value() -> None:
    of_one = finite(row(1, metrics={"mae": (0.4, nan, nan, 0.0), "rmse": (nan, 0.1, 0.2, 0.0)}))
    assert of_one.metrics == {"mae": (0.4, None, None, 0.0)}
    assert decode(encode(of_one)) == of_one
    several = [of_one, row(2, metrics={"mae": (0.5, 0.3, 0.7, 0.0)})]
    shown = printed(several)
    assert "0.400 unknown" in shown
    assert shown.count("●") == 2
    assert [point[1:] for point in over_time(several, "mae")] == [
        (0.4, None, None),
        (0.5, 0.3, 0.7),
    ]


def test_corrected_and_estimated_stand_beside_what_they_are_of() -> None:
    more = row(
        1, corrected={"recall": (0.7, 0.6, 0.8, 0.0)}, estimated={"recall": (0.75, 0.7, 0.8, 0.0)}
    )
    assert _columns([more], []) == [
        Column("recall", "metrics"), Column("recall", "corrected"), Column("recall", "estimated"),
    ]  # fmt: skip
    assert "0.750 0.700-0.800" in printed([more])


def test_training_stands_beside_before_any_label_has_come() -> None:
    of = {"recall": (0.9, 0.85, 0.95, 0.0)}
    both = row(1, metrics={}, estimated={"recall": (0.8, 0.7, 0.9, 0.0)}, training=of)
    assert _columns([both], []) == [Column("recall", "estimated"), Column("recall", "training")]
    shown = printed([both])
    assert "recall, estimated" in shown
    assert "0.900 0.850-0.950" in shown
    (point,) = over_time([both], "recall", "training")
    assert point.value == 0.9
    assert decode(encode(both)) == both


def test_what_is_too_small_to_judge_is_said_in_words() -> None:
    gap = {"gap:recall": (0.1, -0.1, 0.3, 0.0), "gap:precision": (0.1, 0.05, 0.15, 0.0)}
    rows = [
        row(1, metrics=gap, too_small=["gap:recall", "gap:f1"]), row(2, metrics=gap),
        row(3, metrics=gap, too_small=["gap:recall"]),
    ]  # fmt: skip
    assert "too few to judge: gap:recall (2 of 3 cohorts)\n" in printed(rows, "sex=F|M")
    assert "too few to judge: gap:recall\n" in printed(rows[::2], "sex=F|M")
    assert "too few" not in printed([row(1)])


def test_names_are_neither_markup_nor_escape_codes() -> None:
    shown = printed([row(1, positive="[/red]\x1b[2J")], title="sex=[bold]\x1b[31m[/]")
    assert "\x1b" not in shown
    assert "sex=[bold]" in shown
    assert "about the class [/red]" in shown


def test_a_metric_that_no_row_has_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(ConfigError, match="no row has 'racall'; there are: recall"):
        _check([row(1)], ["racall"])


def test_a_window_has_one_line_a_group() -> None:
    shown = printed([row(1, window=True), row(1, window=True, group="sex=F")], title="window")
    lines = [line.split() for line in shown.splitlines()]
    assert lines[1][0] == "group"
    assert [line[0] for line in lines[2:4]] == ["all", "sex=F"]


def test_a_span_is_told_in_days_where_it_is_of_days() -> None:
    assert _span(row(1)) == "2026-01-01 to 2026-01-01"
    assert (
        _span(row(1, begin="2026-01-01T12:00:00+00:00")) == "2026-01-01 12:00 to 2026-01-02 00:00"
    )


def test_windows_of_groups_and_gaps_between_them_are_tables_of_their_own() -> None:
    gap = {"gap:recall": (0.1, -0.1, 0.3, 0.0)}
    rows = [
        row(1, window=True), row(1, window=True, group="sex=F"),
        row(1, window=True, group="sex=F|M", metrics=gap),
        row(1, window=True, group="sex=F|X", metrics={}, too_small=["gap:recall"]),
        row(1, window=True, group="sex=G|X", metrics={}),
        row(1, window=True, group="sex=a|b"),  # what a sender calls a group
    ]  # fmt: skip
    of_groups, of_gaps = _windows(rows).items()
    assert of_groups == ("2026-01-01 to 2026-01-01", [rows[0], rows[1], rows[5]])
    assert of_gaps == ("2026-01-01 to 2026-01-01, between groups", rows[2:5])
    assert [column.name for column in _columns(of_groups[1], [])] == ["recall"]
    assert [column.name for column in _columns(of_gaps[1], [])] == ["gap:recall"]
    assert list(_windows(rows[:1])) == ["2026-01-01 to 2026-01-01"]


def test_what_is_not_shown_is_named_and_how_to_see_it() -> None:
    assert (
        _not_shown(["brier", "ece"]) == "not shown: brier, ece; --metric NAME shows one, --json all"
    )
    many = [f"f1:{k:02}" for k in range(30)]
    assert ", f1:19 and 10 more; --metric" in _not_shown(many)


def test_examples() -> None:
    assert doctest.testmod(metrics).failed == 0


def test_no_name_and_no_number_is_cut_where_the_terminal_is_narrow() -> None:
    gap = {"gap:recall": (-0.1, -0.25, -0.05, 0.0)}
    group = "environment=production|shadow"
    rows = [row(1, window=True, group=group, metrics=gap, too_small=["gap:recall"])]
    rows += [row(1, window=True, group="sex=F|M", metrics=gap)]
    shown = printed(rows, "window", width=60)
    assert "…" not in shown
    assert shown.count("-0.100 -0.250 to -0.050") == 2
    assert "too few to judge: gap:recall (1 of 2 pairs of groups)\n" in shown


def test_the_first_metric_is_shown_with_what_is_expected_of_it_however_narrow() -> None:
    value = (0.7, 0.6, 0.8, 0.0)
    several = {"accuracy": value, "recall": value}
    columns = _columns([row(1, metrics=several, corrected=several, estimated=several)], [])
    assert [column.name for column in columns[: _shown(columns, 1)]] == ["accuracy"] * 3
    assert _shown(columns, 5) == 5
    assert _shown([], 1) == 1


def test_what_is_expected_of_a_metric_names_it_in_a_table_of_its_own() -> None:
    value = (0.7, 0.6, 0.8, 0.0)
    found = row(1, metrics={"recall": value}, corrected={"recall": value})
    parts = list(_that_fit(80, [found], _columns([found], [])))
    assert [[column.kind for column in part] for part in parts] == [["metrics"], ["corrected"]]
    console = Console(file=io.StringIO(), width=80, color_system=None)
    _print(console, [found], parts[1], "all", draws=False)
    assert "recall, corrected" in console.file.getvalue()  # type: ignore[attr-defined]
