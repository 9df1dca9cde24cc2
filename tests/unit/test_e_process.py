"""Evidence against clients: the definition in plain Python, the bound on false alarms, and the delay."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tocsin.detectors.e_process import MEMORY_EVENTS, RATES, ClientEvidence


def evidence_of(clients: int, alpha: float = 0.01, budget_events: float = 1e6) -> ClientEvidence:
    evidence = ClientEvidence(alpha, budget_events)
    evidence.resize(clients)
    return evidence


def alarms(evidence: ClientEvidence, flags, clients) -> list[tuple[int, int, float]]:
    """Feed all events; return (event, client, height) of each alarm."""
    flags, clients = np.asarray(flags, np.uint8), np.asarray(clients, np.int64)
    found, at = [], 0
    while at < len(flags):
        taken, height = evidence.update(flags[at:], clients[at:])
        at += taken
        if height:
            found.append((at - 1, int(clients[at - 1]), height))
    return found


def plain(flags, clients, alpha: float, budget: float) -> list[tuple[int, int, float]]:
    """From the whole history, event by event: Shiryaev-Roberts sums of Bernoulli likelihood ratios."""
    fade = math.exp(-1 / MEMORY_EVENTS)
    sums: dict[int, list[float]] = {}
    found = []
    for i, (flag, client) in enumerate(zip(flags, clients, strict=True)):
        weights = [(fade ** (i - 1 - j), fade ** (i - j), clients[j] == client) for j in range(i)]
        others = sum(w for w, _, _ in weights) - sum(w for _, w, mine in weights if mine)
        null = alpha
        if others >= 50:
            flagged = sum(w[0] for w, f in zip(weights, flags, strict=False) if f)
            flagged -= sum(w[1] for w, f in zip(weights, flags, strict=False) if f and w[2])
            rate = max(flagged, 0) / others
            null = max(alpha, 1.5 * rate + 2 * math.sqrt(max(rate, 1e-4) / others))
            null = min(null, 0.95)
        bets = [min(max(q, 1.5 * null), 0.99) for q in RATES.tolist()]
        old = sums.get(client, [0.0] * len(bets))
        sums[client] = [
            (s + 1) * (q / null if flag else (1 - q) / (1 - null))
            for s, q in zip(old, bets, strict=True)
        ]
        height = sum(sums[client]) / len(bets)
        if height >= budget:
            found.append((i, client, height))
            sums[client] = [0.0] * len(bets)
    return found


@pytest.mark.parametrize("seed", range(6))
def test_alarms_and_their_height_are_the_definition(seed: int) -> None:
    rng = np.random.default_rng(seed)
    clients = rng.integers(0, (1, 2, 5, 20, 5, 20)[seed], 700)
    rate = np.where(clients == 0, 0.5, 0.02) * (1 if seed < 4 else 10 * (np.arange(700) > 300))
    flags = (rng.random(700) < rate).astype(np.uint8)
    expected = plain(flags.tolist(), clients.tolist(), 0.01, 50)
    found = alarms(evidence_of(20, budget_events=50), flags, clients)
    assert [a[:2] for a in found] == [a[:2] for a in expected]
    assert [a[2] for a in found] == pytest.approx([a[2] for a in expected], rel=1e-9)
    assert found or seed >= 4


@pytest.mark.parametrize("clients", [1, 30, 3000])
@pytest.mark.parametrize("alpha", [0.01, 0.05])
def test_false_alarms_stay_within_the_budget_over_all_clients_together(
    clients: int, alpha: float
) -> None:
    rng = np.random.default_rng(clients)
    events, budget = 400_000, 1000
    flags = rng.random(events) < alpha
    found = alarms(evidence_of(clients, alpha, budget), flags, rng.integers(0, clients, events))
    allowed = events / budget
    assert len(found) <= allowed + 4 * math.sqrt(allowed)


def test_one_client_at_the_null_uses_much_of_its_budget() -> None:
    """Else the bound above is met because nothing ever raises an alarm."""
    flags = np.random.default_rng(0).random(400_000) < 0.01
    assert len(alarms(evidence_of(1, 0.01, 1000), flags, np.zeros(400_000))) > 40


@pytest.mark.parametrize(("share", "delay"), [(1.0, 5), (0.5, 20), (0.2, 60), (0.1, 200)])
def test_an_attacked_client_is_found_among_clean_ones(share: float, delay: int) -> None:
    """Within so many of its own events, in the median over attacks; and it alone is."""
    delays = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        clients = rng.integers(0, 20, 12_000)
        hostile = (clients == 7) & (np.arange(12_000) >= 4000)
        flags = np.where(hostile, rng.random(12_000) < share, rng.random(12_000) < 0.005)
        found = alarms(evidence_of(20), flags, clients)
        assert {client for _, client, _ in found} == {7}
        assert found[0][0] >= 4000
        delays.append(hostile[: found[0][0] + 1].sum())
    assert np.median(delays) <= delay


@pytest.mark.parametrize(
    ("rate", "events", "accused"),
    [(0.05, 1, 0), (0.1, 1, 0.01), (0.3, 1, 0.05), (0.3, 1000, 0.03), (0.5, 3000, 0.01)],
)
def test_a_drift_of_all_inputs_accuses_few_and_hides_no_attacker(
    rate: float, events: int, accused: float
) -> None:
    """All clients are flagged at `rate` after so many events: a sudden drift and a slow one."""
    innocent = 0
    for seed in range(10):
        rng = np.random.default_rng(seed)
        clients = rng.integers(0, 50, 20_000)
        drifted = 0.005 + np.clip((np.arange(20_000) - 5000) / events, 0, 1) * (rate - 0.005)
        flags = rng.random(20_000) < np.where(clients == 0, np.minimum(2 * rate + 0.3, 1), drifted)
        found = {client for _, client, _ in alarms(evidence_of(50), flags, clients)}
        assert 0 in found
        innocent += len(found - {0})
    assert innocent <= accused * 10 * 49


def test_batches_may_be_cut_anywhere() -> None:
    rng = np.random.default_rng(1)
    clients = rng.integers(0, 6, 5000)
    flags = (rng.random(5000) < np.where(clients == 2, 0.3, 0.01)).astype(np.uint8)
    whole, parts = evidence_of(6), evidence_of(6)
    expected = alarms(whole, flags, clients)
    found, begin = [], 0
    while begin < 5000:
        end = begin + int(rng.integers(1, 60))
        found += [
            (begin + i, c, h) for i, c, h in alarms(parts, flags[begin:end], clients[begin:end])
        ]
        state = {name: array.copy() for name, array in parts.state().items()}
        fresh = ClientEvidence(0.01, 1e6)
        fresh.load(state, parts.clock, len(parts))
        parts, begin = fresh, end
    assert found == expected
    assert len(found) > 3
    for name, array in whole.state().items():
        np.testing.assert_array_equal(parts.state()[name], array)


def test_a_client_begins_anew_after_its_alarm() -> None:
    evidence = evidence_of(2)
    times = [i for i, _, _ in alarms(evidence, np.ones(30), np.zeros(30))]
    gaps = np.diff([-1, *times])
    assert len(times) > 3
    assert (gaps == gaps[0]).all()


def test_evidence_has_a_ceiling() -> None:
    """A threshold that is never met lets nothing overflow."""
    evidence = evidence_of(1, budget_events=1e300)
    assert alarms(evidence, np.ones(5000), np.zeros(5000)) == []
    assert np.isfinite(evidence.state()["evidence"]).all()


def test_recent_counts_the_latest_sixty_four_inputs_of_a_client() -> None:
    rng = np.random.default_rng(2)
    evidence = evidence_of(3, budget_events=1e300)
    clients, flags = rng.integers(0, 2, 500), rng.integers(0, 2, 500)
    for upto in (0, 10, 100, 500):
        evidence = evidence_of(3, budget_events=1e300)
        alarms(evidence, flags[:upto], clients[:upto])
        for client in range(3):
            latest = flags[:upto][clients[:upto] == client][-64:]
            assert evidence.recent(client) == (latest.sum(), len(latest))


def test_forgetting_and_growing_keep_the_other_clients() -> None:
    """As if the forgotten ones had merely stopped; what is kept is bounded by who is left."""
    rng = np.random.default_rng(3)
    clients = rng.integers(0, 10, 3000)
    flags = rng.random(3000) < 0.05
    stays, moves = evidence_of(10, budget_events=1e300), evidence_of(10, budget_events=1e300)
    alarms(stays, flags[:1500], clients[:1500])
    alarms(moves, flags[:1500], clients[:1500])
    moves.forget(4)
    moves.resize(9)
    assert len(moves) == 9
    late = clients[1500:] >= 4
    alarms(stays, flags[1500:][late], clients[1500:][late])
    alarms(moves, flags[1500:][late], clients[1500:][late] - 4)
    for name, array in moves.state().items():
        if name == "totals":
            np.testing.assert_array_equal(array, stays.totals)
        else:
            np.testing.assert_array_equal(array[:6], stays.state()[name][4:])
            assert not array[6:].any()
