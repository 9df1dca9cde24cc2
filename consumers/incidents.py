"""Claims of detectors to alerts: claims that belong together make one incident, and it ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np

from ..core import alert as alerts
from ..core.alert import Alert, Member
from ..core.cloudevents import from_nanoseconds
from ..core.columns import Ints
from ..core.lifecycle import State, Step, advance
from ..core.snapshot import pack, unpack
from ..core.verdict import Verdict

_MEMBERS: Final = 50  # streams listed in an alert
_SEVERITY: Final[dict[str, alerts.Severity]] = {
    "data drift": "warning", "prediction drift": "warning", "concept drift": "critical",
    "adversarial input": "critical", "pipeline": "critical",
}  # fmt: skip


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
        Estimated onset, event time in nanoseconds; None if unknown.
    prediction_id, version
        Of the event that decided it.
    """

    clock: int
    verdict: Verdict
    kind: alerts.Kind
    summary: str
    time: int
    started: int | None
    prediction_id: str | None
    version: str | None


class Moment(NamedTuple):
    """An event at which an incident ends for want of claims."""

    offset: int
    row: int
    time: int
    prediction_id: str | None


class Incident(msgspec.Struct):
    """An open incident."""

    alert: bytes  # the alert that opened it, encoded
    kind: str
    subject: str
    first: int  # clock of the claim that opened it
    last: int  # clock of the latest claim
    members: dict[str, Member]


class Incidents:
    """The incidents of one model in one environment and partition.

    Parameters
    ----------
    model, environment, partition
        Whose they are.
    merge_events
        A claim of one kind within so many events of the last one joins its incident; one about a
        stream that is not in it, only within so many events of the first one, so that a restless
        stream hides no other. Claims about clients join only those about the same client.
    resolve_events
        An incident ends after so many events without a claim.
    runbook
        Where to read what to do; `{kind}` becomes the kind.
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
    ) -> None:
        self.model = model
        self.environment = environment
        self.partition = partition
        self.merge_events = merge_events
        self.resolve_events = resolve_events
        self.runbook = runbook
        self.changes = 0
        """Goes up whenever the state does; a store need not write it again in between."""
        self._open: list[Incident] = []

    @property
    def open(self) -> int:
        """How many incidents are open."""
        return len(self._open)

    def due(self, clock: int) -> int | None:
        """Return the clock at which the next incident ends, if that is at most `clock`."""
        ends = min((i.last + self.resolve_events for i in self._open), default=None)
        return ends if ends is not None and ends <= clock else None

    def claim(self, claim: Claim) -> Alert | None:
        """Take a claim in; return the alert, if it opens an incident."""
        self.changes += 1
        subject = claim.verdict.subject if claim.kind == "adversarial input" else ""
        member = _member(claim.verdict)
        key = f"{member.subject} {member.detector}"
        for incident in self._open:
            same = incident.kind == claim.kind and incident.subject == subject
            since = incident.last if _has(incident, member.subject) else incident.first
            if same and claim.clock - since <= self.merge_events:
                incident.last = claim.clock
                if key in incident.members or len(incident.members) < _MEMBERS:
                    incident.members[key] = member
                return None
        opened = self._alert(claim)
        self._open.append(
            Incident(
                alerts.encode(opened), claim.kind, subject, claim.clock, claim.clock, {key: member}
            )
        )
        return opened

    def end(self, clock: int, moment: Moment) -> list[Alert]:
        """End the incidents that are due at `clock`; return their last alerts."""
        self.changes += 1
        over = [i for i in self._open if i.last + self.resolve_events <= clock]
        self._open = [i for i in self._open if i.last + self.resolve_events > clock]
        return [self._resolved(incident, moment) for incident in over]

    def _name(self) -> str:
        return (
            self.model if self.environment == "production" else f"{self.model}@{self.environment}"
        )

    def _id(self, detector: str, subject: str, offset: int, row: int) -> str:
        place = f"{offset}.{row}" if row else f"{offset}"
        return f"{self._name()}:{detector}:{subject}:{self.partition}:{place}"

    def _alert(self, claim: Claim) -> Alert:
        v = claim.verdict
        identity = self._id(v.detector, v.subject, v.offset, v.row)
        fingerprint = alerts.fingerprint(self.model, self.environment, claim.kind, v.subject)
        started = None if claim.started is None else from_nanoseconds(claim.started)
        return Alert(
            id=identity,
            incident=identity,
            fingerprint=fingerprint,
            state=advance(State.PENDING, Step.CONFIRM),
            severity=_SEVERITY[claim.kind],
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
            started_at=started,
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
        others = len({m.subject for m in members}) - 1
        more = f" and {others} more" if others else ""
        return msgspec.structs.replace(
            opened,
            # The same event may also open the next incident of this detector and subject.
            id=f"{self._id(opened.detector, opened.subject, moment.offset, moment.row)}:resolved",
            state=advance(opened.state, Step.RESOLVE),
            resolved_at=from_nanoseconds(moment.time),
            prediction_id=moment.prediction_id,
            offset=moment.offset,
            row=moment.row,
            members=members,
            summary=f"{opened.subject}{more}: quiet for {self.resolve_events} events",
        )

    def snapshot(self) -> bytes:
        """Return the whole state."""
        return pack("incidents", 1, {"open": [msgspec.to_builtins(i) for i in self._open]}, {})

    def restore(self, state: bytes) -> None:
        """Go on from a snapshot."""
        meta: dict[str, Any] = unpack("incidents", 1, state)[0]
        self._open = msgspec.convert(meta["open"], list[Incident])


class Timeline:
    """When events happened, roughly: the time of every 64th, back to 128 of them before a claim."""

    EVERY: Final = 64
    KEPT: Final = 128

    def __init__(self) -> None:
        self.count = 0
        self._times: list[int] = []

    def add(self, times: Ints) -> None:
        """Take (n,) event times in."""
        first = -self.count % self.EVERY
        self._times += times[first :: self.EVERY].tolist()
        self.count += len(times)

    def trim(self) -> None:
        """Let go of what claims about events to come cannot ask for."""
        del self._times[: -self.KEPT]

    def at(self, number: int, claimed: int) -> int | None:
        """Return the time of about event `number`, for a claim made at event `claimed`.

        None if that is too long before: how many events came in together must not matter.
        """
        if claimed // self.EVERY - number // self.EVERY >= self.KEPT:
            return None
        newest = (self.count - 1) // self.EVERY
        place = number // self.EVERY - newest + len(self._times) - 1
        return self._times[place] if 0 <= place < len(self._times) else None

    def state(self) -> tuple[int, list[int]]:
        """Return what `load` takes."""
        return self.count, self._times[-self.KEPT :]

    def load(self, state: Sequence[Any]) -> None:
        """Go on from `state`."""
        self.count, self._times = state


def _has(incident: Incident, subject: str) -> bool:
    return any(member.subject == subject for member in incident.members.values())


def _member(verdict: Verdict) -> Member:
    return Member(
        subject=verdict.subject,
        detector=verdict.detector,
        statistic=_finite(verdict.statistic) or 0.0,
        threshold=_finite(verdict.threshold) or 0.0,
        delay_events=verdict.delay_events,
    )


def _strength(member: Member) -> tuple[float, str]:
    return abs(member.statistic) / (member.threshold or 1.0), member.subject


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
