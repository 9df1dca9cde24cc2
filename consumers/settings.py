"""What a user can set: one file, every key also an environment variable, unknown keys refused."""

from __future__ import annotations

import os
import re
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import (
    Field,
    ValidationError,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    YamlConfigSettingsSource,
)

from ..core.errors import ConfigError
from ..core.limits import Limits
from .model_settings import Group, ModelSettings, Seconds
from .wrong_settings import explained


class KafkaSettings(Group):
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
    client: dict[str, Any] = Field(default_factory=dict[str, Any])

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


class RedisSettings(Group):
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


class WorkerSettings(Group):
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
