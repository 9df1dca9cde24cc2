"""What a user can set: one file, every key also an environment variable, unknown keys refused."""

from __future__ import annotations

import os
import re
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    YamlConfigSettingsSource,
)

from ..core.errors import ConfigError
from ..core.limits import Limits
from ..detectors.merging import JOIN, PAUSE
from .wrong_settings import explained

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


class _Group(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class KafkaSettings(_Group):
    """Where events come from.

    Parameters
    ----------
    bootstrap
        `host:port`, several separated by commas.
    topic, dead_letters, group
        Names.
    start
        Where a partition begins that no worker has processed yet.
    security_protocol, sasl_mechanism, username, password_file, ca_file
        As kafka-python's; the password is read from a file or from TOCSIN_KAFKA__PASSWORD.
    client
        Further consumer settings in kafka-python's names.
    """

    bootstrap: str = "localhost:9092"
    topic: str = "tocsin.events"
    dead_letters: str = "tocsin.dead-letters"
    group: str = "tocsin"
    start: Literal["earliest", "latest"] = "earliest"
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: str | None = None
    username: str | None = None
    password: str | None = Field(default=None, repr=False)
    password_file: Path | None = None
    ca_file: Path | None = None
    client: dict[str, Any] = {}

    def connection(self) -> dict[str, Any]:
        """Return what every Kafka client needs, in kafka-python's names."""
        found: dict[str, Any] = {
            "bootstrap_servers": self.bootstrap.split(","),
            "security_protocol": self.security_protocol,
            "reconnect_backoff_max_ms": 2_000,  # of 30 s: a broker that is back must not wait for us
            "bootstrap_timeout_ms": 5_000,  # of 30 s: a stop waits for it
        }
        if self.ca_file:
            found["ssl_cafile"] = str(self.ca_file)
        if self.sasl_mechanism:
            found["sasl_mechanism"] = self.sasl_mechanism
            found["sasl_plain_username"] = self.username
            found["sasl_plain_password"] = self.secret()
        return found

    def secret(self) -> str | None:
        """Return the password from where it is kept.

        Raises
        ------
        ConfigError
            The file cannot be read.
        """
        if not self.password_file:
            return self.password
        try:
            return self.password_file.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"kafka.password_file: {self.password_file} cannot be read: {error}"
            ) from None


class RedisSettings(_Group):
    """Where state and alerts go.

    Parameters
    ----------
    url
        `redis://`, `rediss://` or `unix://`; a password belongs into TOCSIN_REDIS__URL.
    stream_length
        Alerts kept in the stream, about.
    patience
        How long the worker retries before it stops, offsets uncommitted.
    """

    url: str = Field(default="redis://localhost:6379/0", repr=False)
    stream_length: int = Field(default=100_000, gt=0)
    patience: Seconds = 300.0


class WorkerSettings(_Group):
    """How the worker runs.

    Parameters
    ----------
    commit
        Longest time between two commits of a partition; an alert is committed at once.
    poll
        Longest wait for events.
    buffer_bytes
        Fetched and not yet processed, at most.
    watchdog
        The process ends when a poll has not returned for so long.
    columnar
        Whether batches are read whole (`auto`, unless kafka-python is built differently) or record
        by record (`off`).
    """

    commit: Seconds = 0.2
    poll: Seconds = 0.1
    buffer_bytes: int = Field(default=50 << 20, gt=0)
    watchdog: Seconds = 30.0
    columnar: Literal["auto", "off"] = "auto"


class DriftSettings(_Group):
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
        A file that `tocsin reference` wrote of training data: the streams in it are compared with training for
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


class AttackSettings(_Group):
    """Adversarial inputs; see `tocsin.detectors.adversarial.AdversarialInputs`.

    `reference` names an .npz file with an array `logits` (n, classes) of clean inputs.
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


class LabelSettings(_Group):
    """How labels are joined; see `tocsin.consumers.join.Join`."""

    window: Seconds = 14 * 86400.0
    early: Seconds = 300.0
    max_pending: int = Field(default=100_000, gt=0)
    max_early: int = Field(default=10_000, gt=0)


class PerformanceSettings(_Group):
    """How performance is counted; see `tocsin.consumers.cohorts.Cohorts`.

    Parameters
    ----------
    cohort
        Predictions of so long a time make one cohort.
    cohorts
        Cohorts kept; a new one beyond takes the place of the earliest.
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
        The first so many labelled predictions of a binary model with a score tell what its scores are worth; from then on
        performance is estimated before labels come.
    unlabelled
        What a prediction without a label is once it is mature: `unknown`, or `negative`, as where only fraud is reported.
    """

    cohort: Annotated[Seconds, Field(ge=60)] = 86400.0
    cohorts: int = Field(default=90, gt=0, le=10_000)
    segments: Literal["all"] | list[str] = "all"
    positive: str | None = None
    close_after: Seconds = 14 * 86400.0
    close_coverage: float = Field(default=0.95, gt=0, le=1)
    maturity: Seconds | None = None
    unlabelled: Literal["unknown", "negative"] = "unknown"
    calibration_pairs: int = Field(default=2000, ge=300)

    @field_validator("segments")
    @classmethod
    def _few(cls, names: Literal["all"] | list[str]) -> Literal["all"] | list[str]:
        if names != "all":
            from .groups import CROSS, MOST_SEGMENTS

            parts = {part for name in names for part in name.split(CROSS)}
            if len(parts) > MOST_SEGMENTS or "" in parts:
                raise ValueError(f"name 1 to {MOST_SEGMENTS} segments, none of them empty")
        return names


class IncidentSettings(_Group):
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


class ModelSettings(_Group):
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
    runbook: str = "docs/runbooks.md#{kind}"
    drift: DriftSettings = DriftSettings()
    attack: AttackSettings = AttackSettings()
    labels: LabelSettings = LabelSettings()
    performance: PerformanceSettings = PerformanceSettings()
    incidents: IncidentSettings = IncidentSettings()

    @model_validator(mode="after")
    def _matures_in_time(self) -> ModelSettings:
        maturity = self.performance.maturity
        if maturity is not None and maturity > self.labels.window:
            raise ValueError(
                f"performance.maturity is {maturity:g} s, but labels.window, how long labels are joined, only "
                f"{self.labels.window:g} s: raise it"
            )
        if maturity is None and self.performance.unlabelled == "negative":
            raise ValueError("performance.unlabelled: negative needs performance.maturity")
        return self


class Settings(BaseSettings):
    """All settings.

    Parameters
    ----------
    tenant
        Prefix of every key in Redis.
    defaults
        For all models.
    models
        By the model's name, what differs from `defaults`.
    """

    model_config = SettingsConfigDict(
        env_prefix="TOCSIN_", env_nested_delimiter="__", extra="forbid", frozen=True,
        protected_namespaces=(),
    )  # fmt: skip

    tenant: str = Field(default="default", pattern=r"^[A-Za-z0-9._-]+$")
    kafka: KafkaSettings = KafkaSettings()
    redis: RedisSettings = RedisSettings()
    worker: WorkerSettings = WorkerSettings()
    limits: Limits = Limits()
    defaults: ModelSettings = ModelSettings()
    models: dict[str, ModelSettings] = {}

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take arguments first, then the environment, then the file."""
        del dotenv_settings, file_secret_settings
        return (init_settings, env_settings, YamlConfigSettingsSource(settings_cls))

    @model_validator(mode="before")
    @classmethod
    def _inherit(cls, given: Any) -> Any:
        defaults, models = given.get("defaults"), given.get("models")
        if not isinstance(defaults, dict) or not isinstance(models, dict):
            return given
        inherited = {name: _merged(defaults, own) for name, own in models.items()}
        return {**given, "models": inherited}

    def of(self, model: str) -> ModelSettings:
        """Return a model's settings."""
        return self.models.get(model, self.defaults)


def _merged(defaults: Any, own: Any) -> Any:
    """Return `own`, and what it does not say from `defaults`."""
    if not isinstance(defaults, dict) or not isinstance(own, dict):
        return own
    return {**defaults, **{key: _merged(defaults.get(key), value) for key, value in own.items()}}


def load(path: Path | None = None, **overrides: Any) -> Settings:
    """Read the settings.

    Parameters
    ----------
    path
        A YAML file; `tocsin.yaml` in the working directory where None, if there is one.
    overrides
        Top-level settings that win over file and environment.

    Raises
    ------
    ConfigError
        A file or key is wrong; the message names each key, what was found and the fix.
    """
    if path is not None and not path.is_file():
        raise ConfigError(f"no configuration file {path}; write one, or leave --config out")
    chosen = path or Path("tocsin.yaml")
    if chosen.is_file():
        _check_file(chosen)
    config = {**Settings.model_config, "yaml_file": chosen}
    chosen_settings = type("Settings", (Settings,), {"model_config": config})
    try:
        found: Settings = chosen_settings(**overrides)
    except ValidationError as error:
        raise ConfigError("\n".join(explained(error, Settings))) from None
    except SettingsError as error:
        key = re.search(r'field "(\w+)"', str(error))
        name = f"TOCSIN_{key[1].upper()}" if key else str(error)
        raise ConfigError(
            f'{name}: a group of settings must be JSON, such as {{"key": "value"}}; {name}__KEY sets one of them'
        ) from None
    except UnicodeDecodeError:
        raise ConfigError(f"{chosen} is not UTF-8 text") from None
    _refuse_unknown_variables()
    return found


def _check_file(path: Path) -> None:
    try:
        with path.open("rb") as file:  # not its text: errors would show lines of it, secrets too
            found = yaml.safe_load(file)
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} is not YAML: {error}") from None
    if found is not None and not (
        isinstance(found, dict) and all(isinstance(key, str) for key in found)
    ):
        raise ConfigError(f"{path} must hold keys with their values, such as `kafka: ...`")


def _refuse_unknown_variables() -> None:
    """Raise for a TOCSIN_ variable that no setting has; pydantic-settings would pass over it."""
    top = list(Settings.model_fields)
    for name in os.environ:
        if not name.startswith("TOCSIN_") or name.startswith(("TOCSIN_TEST_", "TOCSIN_BENCH_")):
            continue
        key = name.removeprefix("TOCSIN_").lower().split("__")[0]
        if key not in top:
            near = get_close_matches(key, top, 1)
            hint = f"; did you mean TOCSIN_{near[0].upper()}?" if near else ""
            raise ConfigError(f"{name}: no such setting{hint}")
