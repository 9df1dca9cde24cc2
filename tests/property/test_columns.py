"""Columns, the index of texts and the log of segments, each against lists and dicts that say the same."""

from __future__ import annotations

from random import Random
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tocsin.consumers.segments import SegmentLog
from tocsin.core.columns import Floats, Ints, Strings, Values, groups, stack, take
from tocsin.detectors.string_index import StringIndex

CHECKED = settings(derandomize=True, deadline=None, database=None, max_examples=200)
TEXTS = st.lists(st.none() | st.text(st.characters(codec="utf-8"), max_size=5), max_size=12)
SCALARS = st.lists(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=3)
    | st.floats(allow_nan=False),
    max_size=12,
)  # fmt: skip


def typed(values: list) -> list:
    """With the types, because True == 1 == 1.0, and the sign of zero."""
    return [(type(value), repr(value)) for value in values]


# ---- columns ----


@CHECKED
@given(st.lists(TEXTS, min_size=1, max_size=4), st.data())
def test_texts_come_back_however_they_were_put_together_and_taken_apart(parts, data) -> None:
    whole = [text for part in parts for text in part]
    column = Strings.concat([Strings.of(part) for part in parts])
    assert column.to_list() == whole
    assert column.present.tolist() == [text is not None for text in whole]
    rows = data.draw(st.lists(st.integers(0, len(whole) - 1), max_size=9)) if whole else []
    taken = column.take(np.array(rows, np.int64))
    wanted = [whole[row] for row in rows]
    assert taken.to_list() == wanted
    assert taken.data is column.data
    compact = taken.compact()
    assert compact.to_list() == wanted
    assert len(compact.data) == sum(len((text or "").encode()) for text in wanted)
    begin, end = sorted(data.draw(st.tuples(*[st.integers(0, len(whole))] * 2)))
    halves = [column.take(slice(begin, end)), taken, Strings.missing(2)]
    assert Strings.concat(halves).to_list() == whole[begin:end] + wanted + [None, None]


@CHECKED
@given(st.lists(SCALARS, min_size=1, max_size=4), st.data())
def test_classes_and_numbers_keep_their_type_and_value(parts, data) -> None:
    whole = [value for part in parts for value in part]
    column = Values.concat([Values.of(part) for part in parts])
    assert typed(column.to_list()) == typed(whole)
    assert column.present.tolist() == [value is not None for value in whole]
    keep = data.draw(st.lists(st.booleans(), min_size=len(whole), max_size=len(whole)))
    kept = column.take(np.array(keep, np.bool_))
    assert typed(kept.to_list()) == typed([v for v, k in zip(whole, keep, strict=True) if k])
    assert Values.missing(len(whole)).to_list() == [None] * len(whole)


class Table(NamedTuple):
    numbers: Floats
    names: Strings
    values: Values


@CHECKED
@given(
    st.lists(
        st.lists(st.tuples(st.floats(), st.text(), st.integers(-9, 9)), max_size=5), min_size=1
    )
)
def test_tables_are_stacked_and_cut_row_by_row(parts) -> None:
    def table(rows: list) -> Table:
        return Table(
            np.array([row[0] for row in rows], np.float64),
            Strings.of(row[1] for row in rows),
            Values.of([row[2] for row in rows]),
        )

    def rows(found: Table) -> list:
        columns = (found.numbers.tolist(), found.names.to_list(), found.values.to_list())
        return [repr(row) for row in zip(*columns, strict=True)]

    whole = [row for part in parts for row in part]
    stacked = stack([table(part) for part in parts])
    assert rows(stacked) == [repr(row) for row in whole]
    assert rows(take(stacked, slice(1, None, 2))) == [repr(row) for row in whole[1::2]]


@CHECKED
@given(st.lists(st.integers(-2, 4), max_size=30), st.sampled_from(["int64", "int8", "int32"]))
def test_groups_are_the_rows_of_each_code_in_order(codes: list[int], dtype: str) -> None:
    found = {code: rows.tolist() for code, rows in groups(np.array(codes, dtype))}
    wanted = {
        code: [row for row, other in enumerate(codes) if other == code]
        for code in sorted(set(codes))
        if code >= 0
    }
    assert found == wanted
    assert list(found) == sorted(found)


# ---- the index of texts ----


def some_texts(rng: Random, count: int, of: int) -> list[str | None]:
    return [
        None if rng.random() < 0.05 else "" if rng.random() < 0.02 else f"té{rng.randrange(of)}" * rng.choice([1, 1, 9])
        for _ in range(count)
    ]  # fmt: skip


@pytest.mark.parametrize("seed", range(8))
def test_codes_are_given_in_order_found_again_and_forgotten_from_the_oldest(seed: int) -> None:
    rng = Random(seed)
    index, known = StringIndex(), {}
    first = count = 0
    for _ in range(120):
        texts = some_texts(rng, rng.choice([0, 1, 40, 300]), rng.choice([5, 200, 10**9]))
        column = Strings.concat([Strings.of(texts[:7]), Strings.of(texts[7:])])
        assert index.find(column).tolist() == [known.get(text, -1) for text in texts]
        for text in texts:
            if text is not None and text not in known:
                known[text] = count
                count += 1
        assert index.add(column).tolist() == [known.get(text, -1) for text in texts]
        if rng.random() < 0.4:
            first = max(first, rng.choice([count, count - 10, (first + count) // 2, first - 3]))
            index.forget(first)
            known = {text: code for text, code in known.items() if code >= first}
        if rng.random() < 0.2:
            other = StringIndex()
            other.restore(index.texts(first, count), first)
            index = other
        assert (len(index), index.first, index.live) == (count, first, len(known))
        assert index.texts(first, count).to_list() == list(known)
        assert all(index[code] == text for text, code in list(known.items())[:5])


def test_a_forgotten_text_gets_a_new_code_and_leaves_no_trace() -> None:
    index = StringIndex()
    index.add(Strings.of(["a", "b", "c"]))
    index.forget(2)
    assert index.find(Strings.of(["a", "b", "c"])).tolist() == [-1, -1, 2]
    assert index.add(Strings.of(["a", "a", "c"])).tolist() == [3, 3, 2]
    index.forget(1)  # less than was forgotten already
    assert index.first == 2


def test_memory_follows_what_is_kept_and_not_what_ever_came() -> None:
    index, sizes = StringIndex(), []
    for batch in range(200):
        index.add(Strings.of(f"{batch}-{i}-" + "x" * 50 for i in range(500)))
        index.forget(len(index) - 1000)
        sizes.append(len(index._arena) + index._at.nbytes + index._slots.nbytes)
    assert max(sizes) < 10 * 1000 * 60


def test_no_choice_of_texts_makes_two_indexes_collide_in_the_same_slots() -> None:
    """The hash is seeded for each index, so that a sender cannot prepare names that pile up."""
    texts = Strings.of(f"name-{i}" for i in range(40))
    occupied = set()
    for _ in range(5):
        index = StringIndex()
        index.add(texts)
        occupied.add(tuple(np.flatnonzero(index._slots).tolist()))
    assert len(occupied) == 5


# ---- the log of segments ----


@pytest.mark.parametrize("seed", range(6))
def test_segments_hold_each_live_row_once_few_in_number_and_seldom_written(seed: int) -> None:
    rng = Random(seed)
    log, stored = SegmentLog(), {}
    count = first = written = 0
    for _ in range(3000):
        size = rng.choice([0, 1, 1, 3, 20]) if rng.random() < 0.99 else 3000
        new, deleted = log.append(np.arange(count, count + size))
        count += size
        for number in deleted:
            stored.pop(number, None)
        for number, rows in new:
            assert number not in stored
            stored[number] = rows
            written += len(rows)
        if rng.random() < 0.1:
            first = max(first, count - rng.choice([100, 20_000]))
            for number in log.forget(first):
                del stored[number]
        if rng.random() < 0.01:
            again: dict[int, Ints] = {number: rows.copy() for number, rows in stored.items()}
            log = SegmentLog()
            log.load(again)
        assert len(stored) <= 8 * 7
    rows = np.concatenate([stored[number] for number in sorted(stored)])
    assert rows.tolist() == list(range(int(rows[0]), count))
    assert rows[0] <= max(first, 0)
    assert written < 8 * count


def test_rows_that_come_again_and_again_take_no_more_room() -> None:
    log, stored = SegmentLog(), {}
    for _ in range(1000):
        new, deleted = log.append(np.arange(50))
        stored.update(new)
        for number in deleted:
            stored.pop(number, None)
    assert sum(map(len, stored.values())) <= 8 * 50
