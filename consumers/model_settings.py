"""How one model is monitored: what a user can set of it. Where settings are read from stands in `settings.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from ..core.names import CROSS, check_crossings
from ..detectors.merging import JOIN, PAUSE

ENVIRONMENT: Final = "environment"
"""The segment that says which environment an event is from."""
RUNBOOK: Final = "docs/runbooks.md#{kind}"
"""Where people read what an alert of a kind means, unless settings say so."""
_UNITS = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def _seconds(value: object) -> object:
    """Read `250ms`, `30s`, `5m`, `12h` or `14d`; leave numbers, which are seconds."""
    if not isinstance(value, str):
        return value
    text = value.strip()
    unit = next((unit for unit in _UNITS if text.endswith(unit)), "")
    try:
        return float(text.removesuffix(unit)) * _UNITS.get(unit, 1.0)
    except ValueError:
        raise PydanticCustomError(
            "time", "Input should be a number of seconds or a time, as 250ms, 30s, 5m, 12h or 14d"
        ) from None


_LONGEST = 1e9  # s, 31 years: what is added to a time in nanoseconds must fit 64 bits

Seconds = Annotated[float, BeforeValidator(_seconds), Field(gt=0, le=_LONGEST)]


def _written(seconds: float) -> str:
    """Return a time as it may be written in settings.

    Examples
    --------
    >>> [_written(seconds) for seconds in (14 * 86400, 5400, 90, 0.25)]
    ['14d', '90m', '90s', '0.25s']
    """
    unit = next(
        (u for u in ("d", "h", "m") if seconds >= _UNITS[u] and seconds % _UNITS[u] == 0), "s"
    )
    return f"{seconds / _UNITS[unit]:g}{unit}"


class Group(BaseModel):
    """Keys that belong together; others are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class DriftSettings(Group):
    """What watches streams; see `tocsin.detectors.stream_monitor.StreamMonitor`.

    Parameters
    ----------
    budget_events, budget_days
        The false-alarm budget: at most one false drift alarm in so many events of this model, or in so many
        days at the rate they come, over everything watched. One of both; 1,000,000 events if neither is
        given.
    tolerance
        Shift of a feature or score that is nobody's concern, in reference standard deviations.
    rate_tolerance
        The same for rates, such as that of errors: a difference of rates.
    policy
        `adapt`: what has settled at a new level has that as its reference. `keep`: an incident stays open
        until its streams are back where they were.
    reference
        A file that `tocsin reference`, or `reference()` of a training loop's monitors, wrote of training data: the streams in it are compared with training for
        ever, and open until they are as in training again; others have their first values as a reference.
    learning
        Whether the model goes on learning while it serves: its errors are compared with the latest 5,000 or so, fewer
        of them are what it has learnt, and nothing is compared with its errors in training.
    alarms
        `budget`: only detectors within the budget open incidents, once they know a stream; ADWIN and Page-Hinkley
        speak before, and join afterwards. `all`: those open incidents as well.
    season_seconds
        Length of the long season of streams that are ordered in time; `auto` looks for it.
    embeddings, logits
        Whether embeddings and logits are watched as streams, `embedding:...` and `logits:...`; adversarial inputs are
        looked for in logits all the same.
    engine
        `river` runs River's own ADWIN and Page-Hinkley instead of the compiled ones: the same flags, slower.
    warmup_values
        Values that make a stream's reference.
    adwin_delta, page_hinkley_delta, page_hinkley_threshold
        As River's, on values in reference standard deviations.
    extra_detectors
        Further ones, beside all these, on each stream of numbers after its warm-up: `kswin`, `hddm_w:drift_confidence=1e-4` and the
        like of River's, or a class of your own, `package.module:Class`. With `alarms: all` they open incidents.
    """

    budget_events: float | None = Field(default=None, gt=1)
    budget_days: float | None = Field(default=None, gt=0)
    tolerance: float = Field(default=0.1, ge=0)
    rate_tolerance: float = Field(default=0.02, ge=0, lt=1)
    policy: Literal["adapt", "keep"] = "adapt"
    reference: Path | None = None
    learning: bool = False
    alarms: Literal["budget", "all"] = "budget"
    season_seconds: Literal["auto"] | Seconds = "auto"
    embeddings: bool = True
    logits: bool = True
    engine: Literal["compiled", "river"] = "compiled"
    warmup_values: int = Field(default=256, ge=30)
    adwin_delta: float = Field(default=1e-4, gt=0, lt=1)
    page_hinkley_delta: float = Field(default=0.15, ge=0)
    page_hinkley_threshold: float = Field(default=60.0, gt=0)
    extra_detectors: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _one_budget(self) -> DriftSettings:
        if self.budget_events is not None and self.budget_days is not None:
            raise ValueError("give budget_events or budget_days, not both")
        return self

    @field_validator("extra_detectors")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        from ..detectors.extra_detectors import ExtraDetectors

        ExtraDetectors(names)
        return names

    @field_validator("season_seconds")
    @classmethod
    def _whole_days(cls, value: Literal["auto"] | float) -> Literal["auto"] | float:
        if value != "auto":
            from ..detectors.natural_size import horizons
            from ..detectors.natural_verdicts import DAY_SECONDS

            horizons(DAY_SECONDS, value)  # now, not when a stream turns out to be ordered
        return value


class AttackSettings(Group):
    """Adversarial inputs; see `tocsin.detectors.adversarial.AdversarialInputs`.

    `reference` names an .npz file with an array `logits` (n, classes) of clean inputs; where it names none, `drift.reference` may
    know what clean logits are like.
    """

    enabled: bool = True
    fit_events: int = Field(default=1000, gt=0)
    calibration_events: int = Field(default=1500, gt=0)
    alpha: float = Field(default=0.01, gt=0, lt=1)
    budget_events: float = Field(default=1e6, gt=1)
    max_clients: int = Field(default=4096, gt=0)
    reference: Path | None = None

    @model_validator(mode="after")
    def _calibrated(self) -> AttackSettings:
        if self.model_fields_set & {"alpha", "calibration_events"}:
            from ..detectors.adversarial import null_rate

            null_rate(self.alpha, self.calibration_events)
        return self


class LabelSettings(Group):
    """How labels are joined; see `tocsin.consumers.join.Join`."""

    window: Seconds = 14 * 86400.0
    early: Seconds = 300.0
    max_pending: int = Field(default=100_000, gt=0)
    max_early: int = Field(default=10_000, gt=0)


class PerformanceSettings(Group):
    """How performance is counted; see `tocsin.consumers.cohorts.Cohorts`.

    Parameters
    ----------
    cohort
        Predictions of so long a time make one cohort.
    cohorts
        Cohorts kept; a new one beyond takes the place of the earliest.
    window
        What `tocsin metrics MODEL --window` tells of ends with the newest cohort and is so long, in whole cohorts: seven of them where
        not given.
    segments
        `all`: the first ten segments that events have, their version among them. Or a list of names, and of names with `*`
        between them for their crossing: `[sex, race, sex*race]`.
    positive
        The name of the class that precision, recall and the score are about, of a model with two; the one whose name sorts
        last where not given.
    close_after, close_coverage
        A cohort is closed so long after its end, or when so much of it has a label.
    maturity
        A label that has not come so long after its prediction never will: cohorts that old are mature, and those that are
        younger are corrected for what is to come, as it did for mature ones. No correction where not given. Labels
        are joined for `labels.window`, which must be as long at least.
    calibration_pairs
        The first so many labelled predictions of a model with scores, or of a regression, tell what its scores or predictions
        are worth; from then on performance is estimated before labels come. `drift.reference` may say it instead.
    unlabelled
        What a prediction without a label is once it is mature: `unknown`, or `negative`, as where only fraud is reported.
    """

    cohort: Annotated[Seconds, Field(ge=60)] = 86400.0
    cohorts: int = Field(default=90, gt=0, le=10_000)
    window: Seconds | None = None
    segments: Literal["all"] | list[str] = "all"
    positive: str | None = None
    close_after: Seconds = 7 * 86400.0
    close_coverage: float = Field(default=0.95, gt=0, le=1)
    maturity: Seconds | None = None
    unlabelled: Literal["unknown", "negative"] = "unknown"
    calibration_pairs: int = Field(default=2000, ge=300)

    @property
    def window_cohorts(self) -> int:
        """How many cohorts a window has."""
        return 7 if self.window is None else round(self.window / self.cohort)

    @model_validator(mode="after")
    def _of_whole_cohorts(self) -> PerformanceSettings:
        if self.window is not None and self.window != self.window_cohorts * self.cohort:
            raise ValueError(
                f"window is {_written(self.window)}, cohort {_written(self.cohort)}: a window is of whole cohorts, so make it a multiple"
            )
        if self.window is not None and self.window_cohorts > self.cohorts:
            raise ValueError(
                f"window is {self.window_cohorts} cohorts long, but cohorts, how many are kept, is {self.cohorts}: raise it"
            )
        return self

    @field_validator("segments")
    @classmethod
    def _few(cls, names: Literal["all"] | list[str]) -> Literal["all"] | list[str]:
        if names != "all":
            from .groups import MOST_SEGMENTS

            check_crossings(names)
            parts = {part for name in names for part in name.split(CROSS)}
            if len(parts) > MOST_SEGMENTS:
                raise ValueError(
                    f"names {len(parts)} segments, {MOST_SEGMENTS} is the most: leave {len(parts) - MOST_SEGMENTS} out"
                )
        return names


class BiasSettings(Group):
    """Which gaps between groups are tested; see `tocsin.consumers.bias`.

    Parameters
    ----------
    segments
        Names, and names with `*` between them for their crossing; none where not given. They must be among
        `performance.segments`. `environment` is where an event is from: production is compared with shadow, and in
        `environment*sex` within each sex.
    metrics
        Of which rates gaps are tested: `positive_rate` of predictions (demographic parity), `recall` (equal opportunity),
        `false_positive_rate`, `precision` (predictive parity), `accuracy`, `calibration`.
    epsilon
        The gap that is nobody's concern, as a difference of rates.
    """

    segments: list[str] = Field(default_factory=list[str])
    metrics: list[
        Literal[
            "positive_rate", "recall", "false_positive_rate", "precision", "accuracy", "calibration"
        ]
    ] = Field(default=["positive_rate", "recall", "false_positive_rate", "precision"])
    epsilon: float = Field(default=0.05, ge=0, lt=1)

    @field_validator("segments")
    @classmethod
    def _cross_something(cls, names: list[str]) -> list[str]:
        check_crossings(names)
        return names

    @property
    def within(self) -> list[str]:
        """Segments that are compared in each environment by itself."""
        return [name for name in self.segments if ENVIRONMENT not in name.split(CROSS)]

    @property
    def between(self) -> list[str]:
        """Segments of which environments are compared."""
        return [name for name in self.segments if ENVIRONMENT in name.split(CROSS)]


class LeakageSettings(Group):
    """Which leaks are looked for while a model serves; see `tocsin.consumers.feature_leaks`.

    Parameters
    ----------
    enabled
        Whether any are; only the first 64 of the `features` that are watched are looked at.
    rows
        Predictions whose features are kept until their label comes; beyond, a sample of them.
    reference_labels
        A feature's first labels, which later ones are compared with; where `drift.reference` knows labels, training is.
    times
        Names of features that are times and must not be after the event; `auto` finds them: text, or numbers since 1970, near
        the events' own times.
    clock_skew
        A feature may be so much later than its event.
    error
        The probability that ever a false alarm is raised, over all features and looks.
    """

    enabled: bool = True
    rows: int = Field(default=10_000, ge=1_000, le=1_000_000)
    reference_labels: int = Field(default=2_000, ge=500)
    times: Literal["auto"] | list[str] = "auto"
    clock_skew: Annotated[float, BeforeValidator(_seconds), Field(ge=0, le=_LONGEST)] = 60.0
    error: float = Field(default=0.01, gt=0, lt=1)


class IncidentSettings(Group):
    """When claims make one incident, and when it is over.

    Parameters
    ----------
    merge_events
        A stream that changes while an incident is open joins it within so many events of the latest stream that
        came in; later it is an incident of its own.
    resolve_events
        An incident is resolved so many events after its last stream has settled, or after the last claim of detectors
        that only raise alarms.
    """

    merge_events: int = Field(default=JOIN, gt=0)
    resolve_events: int = Field(default=PAUSE, gt=0)


class ModelSettings(Group):
    """How a model is monitored.

    Parameters
    ----------
    task
        `classification` or `regression`; `auto` decides by the first prediction: text, booleans,
        integers and anything with scores or logits are classes.
    features
        `all`, `none` or a list of names.
    performance_window
        Joined pairs over which accuracy and the like are computed.
    runbook
        Where people read what to do; `{kind}` becomes the alert's kind, with dashes.
    """

    task: Literal["auto", "classification", "regression"] = "auto"
    features: Literal["all", "none"] | list[str] = "all"
    performance_window: int = Field(default=1000, gt=0)
    runbook: str = RUNBOOK
    drift: DriftSettings = DriftSettings()
    attack: AttackSettings = AttackSettings()
    labels: LabelSettings = LabelSettings()
    performance: PerformanceSettings = PerformanceSettings()
    bias: BiasSettings = BiasSettings()
    leakage: LeakageSettings = LeakageSettings()
    incidents: IncidentSettings = IncidentSettings()

    @model_validator(mode="after")
    def _compares_what_is_told_apart(self) -> ModelSettings:
        told_apart = self.performance.segments
        if told_apart != "all":
            known = {part for name in told_apart for part in name.split(CROSS)}
            missing = {part for name in self.bias.segments for part in name.split(CROSS)}
            missing -= {ENVIRONMENT, *known}
            if missing:
                raise ValueError(
                    f"bias.segments names {', '.join(sorted(missing))}, which performance.segments does not: add it there"
                )
        return self

    @model_validator(mode="after")
    def _matures_in_time(self) -> ModelSettings:
        maturity = self.performance.maturity
        if maturity is not None and maturity > self.labels.window:
            raise ValueError(
                f"performance.maturity is {_written(maturity)}, but labels.window, how long labels are joined, only "
                f"{_written(self.labels.window)}: raise it"
            )
        if maturity is None and self.performance.unlabelled == "negative":
            raise ValueError("performance.unlabelled: negative needs performance.maturity")
        return self

    @property
    def is_regression(self) -> bool | None:
        """Whether the model is one; None where its first prediction is to decide."""
        return None if self.task == "auto" else self.task == "regression"

    def wants(self, feature: str) -> bool:
        """Return whether a feature is watched."""
        return self.features == "all" or (self.features != "none" and feature in self.features)

    @property
    def reads_features(self) -> bool:
        """Whether anything looks at features: what watches them, or what compares them with training."""
        return self.features != "none" or self.drift.reference is not None
