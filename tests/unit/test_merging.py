"""Claims that make one incident."""

from __future__ import annotations

import msgspec
import pytest

from tocsin.core.verdict import Verdict
from tocsin.detectors.merging import Merging, beginnings


def claim(
    subject: str, phase: str = "opened", *, lasts: bool = True, advisory: bool = False
) -> Verdict:
    made = Verdict(
        detector="e_detector", subject=subject, offset=0, row=0, statistic=1, threshold=1
    )
    return msgspec.structs.replace(made, phase=phase, lasts=lasts, advisory=advisory)


def test_streams_that_change_while_another_is_open_belong_to_it() -> None:
    merging = Merging(pause=10, join=100)
    assert merging.add(1000, claim("a")) == 1
    assert merging.add(1050, claim("b")) == 1
    assert merging.add(1060, claim("a", "settled")) == 1
    assert merging.end_of(merging.begun) is None
    assert merging.add(1149, claim("c")) == 1  # b is still open, and came in less than 100 before
    assert merging.add(1160, claim("b", "settled")) == 1
    assert merging.end_of(1) is None
    assert merging.add(1170, claim("c", "settled")) == 1
    assert merging.end_of(1) == 1180


@pytest.mark.parametrize(("at", "number"), [(1109, 1), (1110, 2)])
def test_what_opens_within_the_pause_after_the_end_is_more_of_it(at: int, number: int) -> None:
    merging = Merging(pause=10, join=1000)
    merging.add(1000, claim("a"))
    merging.add(1100, claim("a", "settled"))
    assert merging.add(at, claim("b")) == number
    assert merging.end_of(merging.begun) is None


@pytest.mark.parametrize(("at", "number"), [(1150, 1), (1151, 2)])
def test_a_stream_that_never_rests_hides_no_other_for_ever(at: int, number: int) -> None:
    merging = Merging(pause=10, join=100)
    merging.add(1000, claim("restless"))
    merging.add(1050, claim("a"))
    assert merging.add(1140, claim("restless", "moved")) == 1
    assert merging.add(at, claim("b")) == number
    assert merging.add(at + 1, claim("restless", "moved")) == 1
    # The rest of an older incident's stream ends nothing newer.
    assert merging.add(at + 2, claim("restless", "settled")) == 1
    assert merging.end_of(merging.begun) is None


def test_streams_that_come_and_go_in_turn_hide_no_other_for_ever() -> None:
    merging = Merging(pause=10, join=100)
    for k in range(6):
        at, name = 1000 + 25 * k, "ab"[k % 2]
        assert merging.add(at, claim(name)) == (1 if at <= 1125 else 2)
        assert merging.add(at + 20, claim(name, "settled")) is not None
    # `b` came in first at 1025; what opens 100 events later or more is another change.
    assert merging.add(1150, claim("c")) == 2


def test_what_moves_goes_on_with_what_it_belonged_to() -> None:
    merging = Merging(pause=10, join=100)
    assert merging.add(900, claim("a", "moved")) is None  # since before we looked
    merging.add(1000, claim("a"))
    merging.add(1100, claim("a", "settled"))
    assert merging.add(1105, claim("a", "moved")) == 1
    assert merging.end_of(1) is None
    merging.add(1600, claim("a", "settled"))
    assert merging.add(1605, claim("a")) == 1
    merging.add(1610, claim("a", "settled"))
    assert merging.add(1700, claim("a", "moved")) is None  # more of what is over begins nothing


def test_advice_joins_what_lasts_and_prolongs_nothing() -> None:
    merging = Merging(pause=10, join=100)
    assert merging.add(900, claim("a", advisory=True)) is None
    merging.add(1000, claim("b"))
    assert merging.add(1010, claim("a", advisory=True)) == 1
    merging.add(1020, claim("b", "settled"))
    assert merging.add(1025, claim("a", advisory=True)) == 1
    assert merging.add(1026, claim("b", advisory=True)) == 1
    assert merging.end_of(1) == 1030
    assert merging.add(1040, claim("a", advisory=True)) is None
    assert merging.add(1040, claim("c")) == 2


def test_a_stream_that_has_gone_holds_nothing_open_for_ever() -> None:
    merging = Merging(pause=10, join=100, patience=500)
    merging.add(1000, claim("gone"))
    merging.add(1200, claim("gone", "moved"))
    assert merging.end_of(1) == 1700
    assert merging.add(1699, claim("gone", "moved")) == 1
    assert merging.add(2199, claim("gone")) == 2
    patient = Merging(pause=10)
    patient.add(1000, claim("gone"))
    assert patient.end_of(1) is None


def test_a_stream_joins_an_older_incident_that_lasts_when_a_newer_one_is_over() -> None:
    merging = Merging(pause=10, join=100)
    merging.add(1000, claim("restless"))
    assert merging.add(1200, claim("a", lasts=False)) == 2
    assert merging.add(1250, claim("b")) == 1
    merging.rest()
    assert merging.end_of(1) == 1260


def test_what_a_stream_does_later_is_not_hidden_by_others_that_hold_its_incident_open() -> None:
    merging = Merging(pause=10, join=100)
    merging.add(1000, claim("a"))
    merging.add(1000, claim("restless"))
    merging.add(1050, claim("a", "settled"))
    assert merging.add(1500, claim("a", "moved")) == 1  # it is the change's, by its own word
    merging.add(1600, claim("a", "settled"))
    assert merging.add(1700, claim("a")) == 2
    assert merging.add(1800, claim("restless", "moved")) == 1


def test_alarms_of_one_restless_stream_hide_no_other() -> None:
    merging = Merging(pause=30, join=100)
    for at in range(0, 200, 20):
        assert merging.add(at, claim("restless", lasts=False)) == 1
    assert merging.add(200, claim("other", lasts=False)) == 2


def test_a_rest_of_what_never_opened_says_nothing() -> None:
    merging = Merging(pause=10, join=100)
    assert merging.add(5, claim("a", "settled")) is None
    assert merging.add(6, claim("b")) == 1


def test_alarms_of_a_moment_are_one_incident_a_pause_apart() -> None:
    alarms = [(at, claim("a", lasts=False)) for at in (10, 100, 190, 400, 401)]
    assert beginnings(alarms, pause=91) == [10, 400]
    assert beginnings(alarms, pause=90) == [10, 100, 190, 400]
    assert beginnings(alarms, pause=0) == [10, 100, 190, 400, 401]


def test_detectors_of_one_stream_settle_one_by_one() -> None:
    merging = Merging(pause=1, join=100)
    other = msgspec.structs.replace(claim("a"), detector="natural_size")
    merging.add(10, claim("a"))
    assert merging.add(20, other) == 1
    merging.add(30, claim("a", "settled"))
    assert merging.end_of(merging.begun) is None
    assert merging.add(40, msgspec.structs.replace(other, phase="settled")) == 1
    assert merging.end_of(1) == 41


def test_it_goes_on_from_its_state() -> None:
    claims = [(10, claim("a")), (40, claim("b")), (60, claim("a", "settled")), (70, claim("b", "settled")),
              (75, claim("a")), (90, claim("a", "settled")), (300, claim("c")), (500, claim("d"))]  # fmt: skip
    whole = Merging(pause=10, join=100)
    expected = [whole.add(at, c) for at, c in claims]
    assert expected == [1, 1, 1, 1, 1, 1, 2, 3]
    for cut in range(len(claims)):
        first, second = Merging(pause=10, join=100), Merging(pause=10, join=100)
        numbers = [first.add(at, c) for at, c in claims[:cut]]
        second.load(msgspec.json.decode(msgspec.json.encode(first.state())))
        assert numbers + [second.add(at, c) for at, c in claims[cut:]] == expected


@pytest.mark.parametrize(("pause", "join"), [(-1, 10), (0, 0)])
def test_it_says_what_it_cannot_do(pause: int, join: int) -> None:
    with pytest.raises(ValueError, match=f"got {pause}, {join} and None"):
        Merging(pause, join)
