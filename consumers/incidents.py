"""Claims of detectors to alerts: claims that belong together make one incident, and it ends."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from math import inf
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np

from ..core import alert as alerts
from ..core.alert import Alert, Member
from ..core.cloudevents import from_nanoseconds
from ..core.columns import Ints
from ..core.lifecycle import State, Step, advance
from ..core.snapshot import pack, unpack
from ..core.verdict import Summary, Verdict
from ..detectors.merging import Merging
from . import sentences

_MEMBERS: Final = 50  # streams listed in an alert
_SEVERITY: Final[dict[str, alerts.Severity]] = {
    "data drift": "warning", "prediction drift": "warning", "concept drift": "critical",
    "bias": "warning", "leakage": "warning", "adversarial input": "critical", "pipeline": "critical",
    "training": "warning",
}  # fmt: skip
_WORST_IN_TRAINING: Final = frozenset(["non-finite", "divergence", "exploding"])
"""Changes after which what is learnt is of no use any more."""
_RANK: Final = ("info", "warning", "critical")
_WORST: Final = ("unsettled", "gone", "new regime", "returned")
_DRIFTS: Final = frozenset(["data drift", "prediction drift", "concept drift"])
_PATIENCE: Final = 1000
"""Times `resolve_events`: then a stream that has gone holds nothing open. Labels of one in fifty events settle within 500."""


class Onset(NamedTuple):
    """When a change began: event times in nanoseconds, and about at which offset; None if too long ago."""

    time: int | None = None
    earliest: int | None = None
    latest: int | None = None
    offset: int | None = None


class Claim(NamedTuple):
    """A verdict in its context.

    Parameters
    ----------
    clock
        How many predictions of the series stand up to the event that decided it.
    verdict
        The detector's claim.
    kind
        What it is a claim of.
    summary
        One line for people.
    time
        Event time in nanoseconds.
    started
        Estimated onset.
    prediction_id, version
        Of the event that decided it.
    group
        Of training, what makes one incident; None for the claims of one detector.
    """

    clock: int
    verdict: Verdict
    kind: alerts.Kind
    summary: str
    time: int
    started: Onset
    prediction_id: str | None
    version: str | None
    group: str | None = None


class Moment(NamedTuple):
    """An event at which an incident ends."""

    offset: int
    row: int
    time: int
    prediction_id: str | None


Group = tuple[str, str]
"""What may merge: drifts of all kinds; claims about one client; claims of one detector of training, or of several that watch the same, or that a monitor was set aside; claims of one other kind."""


class Incident(msgspec.Struct):
    """An open incident."""

    alert: bytes  # the alert that opened it, encoded
    group: Group
    number: int  # among those of its group
    severity: str
    members: dict[str, Member]
    now: Summary | None = None  # what the stream is that opened it, once that has settled


class Incidents:
    """The incidents of one model in one environment and partition.

    Parameters
    ----------
    model, environment, partition
        Whose they are.
    merge_events
        A stream that changes while an incident is open joins it within so many events of the latest stream that came
        in, so that a restless stream hides no other. Drifts of all kinds join one another; claims about
        clients only those about the same client.
    resolve_events
        An incident ends so many events after the last of its streams has settled, or after the last claim of a
        detector that only raises alarms.
    run
        Of a model that is trained which run that is: each counts its batches from 0. It is in the ids.
    keeps
        Whether streams stay open until they return, however long that takes (policy `keep`).
    runbook
        Where to read what to do; `{kind}` becomes the kind.

    Notes
    -----
    One alert when an incident begins, one when it becomes more severe, one when it is over.
    """

    def __init__(
        self,
        model: str,
        environment: str,
        partition: int,
        *,
        merge_events: int,
        resolve_events: int,
        runbook: str,
        run: str = "",
        keeps: bool = False,
    ) -> None:
        self.model = model
        self.environment = environment
        self.partition = partition
        self.merge_events = merge_events
        self.resolve_events = resolve_events
        self.run = run
        self.keeps = keeps
        self.runbook = runbook
        self.changes = 0
        """Goes up whenever the state does; a store need not write it again in between."""
        self._open: list[Incident] = []
        self._merging: dict[Group, Merging] = {}

    @property
    def open(self) -> int:
        """How many incidents are open."""
        return len(self._open)

    def due(self, clock: int) -> int | None:
        """Return the clock at which the next incident ends, if that is at most `clock`."""
        end = min(map(self._end_of, self._open), default=inf)
        return int(end) if end <= clock else None

    def let_go(self, of: str = "drift") -> None:
        """End the incidents of drifts, or of another kind, with the next event: what would say when begins anew."""
        self.changes += 1
        if (of, "") in self._merging:
            self._merging[of, ""].rest()

    def _end_of(self, incident: Incident) -> int | float:
        end = self._merging[incident.group].end_of(incident.number)
        return inf if end is None else end

    def _merging_of(self, group: Group) -> Merging:
        if group not in self._merging:
            patience = None if self.keeps else _PATIENCE * self.resolve_events
            self._merging[group] = Merging(self.resolve_events, self.merge_events, patience)
        return self._merging[group]

    def claim(self, claim: Claim) -> Alert | None:
        """Take a claim in; return the alert, if it opens an incident or makes one more severe."""
        self.changes += 1
        v = claim.verdict
        apart = {"adversarial input": v.subject, "training": claim.group or v.detector}
        if self.run:
            apart["pipeline"] = v.subject
        group = "drift" if claim.kind in _DRIFTS else claim.kind, apart.get(claim.kind, "")
        number = self._merging_of(group).add(claim.clock, v)
        if number is None:
            return None
        for incident in self._open:
            if (incident.group, incident.number) == (group, number):
                return self._join(incident, claim)
        opened = self._alert(claim)
        members = {_key(v): _member(v)}
        encoded = alerts.encode(opened)
        self._open.append(Incident(encoded, group, number, opened.severity, members))
        return opened

    def _join(self, incident: Incident, claim: Claim) -> Alert | None:
        """Take a claim into an open incident; return an alert if that makes it more severe."""
        v, key = claim.verdict, _key(claim.verdict)
        if v.phase == "settled":
            if key in incident.members:
                member = incident.members[key]
                incident.members[key] = msgspec.structs.replace(member, outcome=v.outcome)
            if v.subject == alerts.decode(incident.alert).subject:
                incident.now = v.current
            return None
        if key in incident.members or len(incident.members) < _MEMBERS:
            incident.members[key] = _member(v)
        severity = _severity(claim)
        if v.advisory or _RANK.index(severity) <= _RANK.index(incident.severity):
            return None
        incident.severity = severity
        return msgspec.structs.replace(
            self._alert(claim),
            incident=alerts.decode(incident.alert).id,
            members=sorted(incident.members.values(), key=_strength, reverse=True),
        )

    def end(self, clock: int, moment: Moment) -> list[Alert]:
        """End the incidents that are due at `clock`; return their last alerts."""
        self.changes += 1
        over = [i for i in self._open if self._end_of(i) <= clock]
        self._open = [i for i in self._open if self._end_of(i) > clock]
        lasting = {incident.group for incident in self._open}
        self._merging = {group: m for group, m in self._merging.items() if group in lasting}
        return [self._resolved(incident, moment) for incident in over]

    def _name(self) -> str:
        place = "" if self.environment == "production" else f"@{self.environment}"
        return f"{self.model}{place}" + (f"/{self.run}" if self.run else "")

    def _id(self, detector: str, subject: str, offset: int, row: int) -> str:
        place = f"{offset}.{row}" if row else f"{offset}"
        return f"{self._name()}:{detector}:{subject}:{self.partition}:{place}"

    def _alert(self, claim: Claim) -> Alert:
        v = claim.verdict
        identity = self._id(v.detector, v.subject, v.offset, v.row)
        fingerprint = alerts.fingerprint(self.model, self.environment, claim.kind, v.subject)
        began = claim.started
        return Alert(
            id=identity,
            incident=identity,
            fingerprint=fingerprint,
            state=advance(State.PENDING, Step.CONFIRM),
            severity=_severity(claim),
            kind=claim.kind,
            model=self.model,
            version=claim.version,
            environment=self.environment,
            subject=v.subject,
            detector=v.detector,
            statistic=_finite(v.statistic),
            threshold=_finite(v.threshold),
            unit=v.unit,
            evidence=v.evidence,
            change=v.change,
            size=_finite(v.size),
            size_sigmas=_finite(v.size_sigmas),
            newcomers=v.newcomers,
            chance_events=_finite(v.chance_events),
            started_at=_time(began.time),
            started_earliest=_time(began.earliest),
            started_latest=_time(began.latest),
            started_offset=began.offset,
            detected_at=from_nanoseconds(claim.time),
            delay_events=v.delay_events,
            prediction_id=claim.prediction_id,
            partition=self.partition,
            offset=v.offset,
            row=v.row,
            reference=v.reference,
            current=v.current,
            samples=v.samples,
            members=[_member(v)],
            summary=claim.summary,
            runbook=self.runbook.replace("{kind}", claim.kind.replace(" ", "-")),
            silence=f"leave out alerts whose fingerprint is {fingerprint}",
        )

    def _resolved(self, incident: Incident, moment: Moment) -> Alert:
        opened = alerts.decode(incident.alert)
        members = sorted(incident.members.values(), key=_strength, reverse=True)
        subjects = [opened.subject, *(m.subject for m in members)]
        outcomes = {m.outcome for m in members if m.outcome}
        outcome = next((o for o in _WORST if o in outcomes), "")
        return msgspec.structs.replace(
            opened,
            id=f"{opened.id}:resolved",
            severity=incident.severity,
            state=advance(opened.state, Step.RESOLVE),
            resolved_at=from_nanoseconds(moment.time),
            prediction_id=moment.prediction_id,
            offset=moment.offset,
            row=moment.row,
            outcome=outcome,
            members=members,
            current=incident.now or opened.current,
            summary=sentences.ended(
                subjects,
                opened.change,
                outcome,
                incident.now,
                self.resolve_events,
                is_trained=bool(self.run),
            ),
        )

    def snapshot(self) -> bytes:
        """Return the whole state."""
        meta = {
            "open": [msgspec.to_builtins(incident) for incident in self._open],
            "merging": [[*group, merging.state()] for group, merging in self._merging.items()],
        }
        return pack("incidents", 4, meta, {})

    def restore(self, state: bytes) -> None:
        """Go on from a snapshot."""
        meta: dict[str, Any] = unpack("incidents", 4, state)[0]
        self._open = msgspec.convert(meta["open"], list[Incident])
        self._merging = {}
        for kind, subject, merging in meta["merging"]:
            self._merging_of((kind, subject)).load(merging)


LINE: Any = tuple[int, list[tuple[int, int]]]
"""What `Timeline.state` is."""


class Timeline:
    """When and where events were, roughly: of every 64th, back to 128 of them before a claim."""

    EVERY: Final = 64
    KEPT: Final = 128

    def __init__(self) -> None:
        self.count = 0
        self._kept: list[tuple[int, int]] = []

    def add(self, times: Ints, offsets: Ints) -> None:
        """Take the (n,) times and offsets of events in."""
        kept = slice(-self.count % self.EVERY, None, self.EVERY)
        self._kept += zip(times[kept].tolist(), offsets[kept].tolist(), strict=True)
        self.count += len(times)

    def trim(self) -> None:
        """Let go of what claims about events to come cannot ask for."""
        del self._kept[: -self.KEPT]

    def at(self, number: int, claimed: int, now: tuple[int, int]) -> tuple[int, int] | None:
        """Return time and offset of about event `number`, for a claim made at event `claimed`, which is `now`.

        On the line between the ones that are kept before and after it. None if that is too long before: how many
        events came in together must not matter.
        """
        if claimed // self.EVERY - number // self.EVERY >= self.KEPT:
            return None
        newest = (self.count - 1) // self.EVERY
        place = number // self.EVERY - newest + len(self._kept) - 1
        if not 0 <= place < len(self._kept):
            return None
        before, after = number // self.EVERY * self.EVERY, (number // self.EVERY + 1) * self.EVERY
        first, second = self._kept[place], now
        if after < claimed:
            second = self._kept[place + 1]
        else:
            after = claimed - 1
        if after <= before:
            return first
        time, offset = (
            a + (b - a) * (number - before) // (after - before)
            for a, b in zip(first, second, strict=True)
        )
        return time, offset

    def since(self, verdict: Verdict, number: int, now: tuple[int, int]) -> Onset:
        """Return when the change began that a verdict claims at event `number` of this line, which is `now`."""

        def ago(events: int | None) -> tuple[int, int] | None:
            return None if events is None else self.at(max(0, number - max(1, events)), number, now)

        began, earliest, latest = map(
            ago, (verdict.delay_events, verdict.delay_high, verdict.delay_low)
        )
        return Onset(
            began and began[0], earliest and earliest[0], latest and latest[0], began and began[1]
        )

    def state(self) -> tuple[int, list[tuple[int, int]]]:
        """Return what `load` takes."""
        return self.count, self._kept[-self.KEPT :]

    def load(self, state: Sequence[Any]) -> None:
        """Go on from `state`."""
        self.count = state[0]
        self._kept = [(time, offset) for time, offset in state[1]]


def _severity(claim: Claim) -> alerts.Severity:
    v = claim.verdict
    is_better = (
        v.subject == "error" and v.change.endswith(" down") and not v.change.startswith("scale")
    )
    if claim.kind == "training" and v.change in _WORST_IN_TRAINING:
        return "critical"
    return "info" if is_better else _SEVERITY[claim.kind]


def _key(verdict: Verdict) -> str:
    return f"{verdict.subject} {verdict.detector}"


def _member(verdict: Verdict) -> Member:
    return Member(
        subject=verdict.subject,
        detector=verdict.detector,
        statistic=_finite(verdict.statistic) or 0.0,
        threshold=_finite(verdict.threshold) or 0.0,
        delay_events=verdict.delay_events,
        change=verdict.change,
        size_sigmas=_finite(verdict.size_sigmas),
    )


def _strength(member: Member) -> tuple[float, str]:
    return abs(member.statistic) / (member.threshold or 1.0), member.subject


def _finite(value: float | None) -> float | None:
    return value if value is not None and np.isfinite(value) else None


def _time(nanoseconds: int | None) -> datetime | None:
    return None if nanoseconds is None else from_nanoseconds(nanoseconds)
