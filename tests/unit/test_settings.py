"""Settings: file, environment and arguments; whatever is wrong is named with its fix, and no secret is shown."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tocsin.consumers.model_settings import DriftSettings, ModelSettings, PerformanceSettings
from tocsin.consumers.settings import Settings, load
from tocsin.core.errors import ConfigError
from tocsin.core.limits import Limits

Load = Callable[..., Settings]


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in os.environ:
        if name.upper().startswith("TOCSIN_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Load:
    """Load a file's text, with variables of the environment."""

    def of(text: str = "", /, **variables: str) -> Settings:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        path = tmp_path / "some.yaml"
        path.write_text(text)
        return load(path)

    return of


# ---- where settings come from ----


def test_without_any_file_everything_has_a_default() -> None:
    found = load()
    assert found.model_dump() == Settings().model_dump()
    assert found.kafka.topic == "tocsin.events"
    assert found.of("a model nobody named") is found.defaults


def test_tocsin_yaml_in_the_working_directory_is_read(tmp_path: Path) -> None:
    (tmp_path / "tocsin.yaml").write_text("tenant: acme")
    assert load().tenant == "acme"


def test_a_file_that_is_named_must_be_there(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere.yaml", tmp_path):
        with pytest.raises(ConfigError, match="no configuration file"):
            load(path)


def test_arguments_win_over_the_environment_and_that_over_the_file(read: Load, tmp_path) -> None:
    text = "kafka: {bootstrap: 'file:1', topic: file, group: file}\ntenant: file"
    found = read(text, TOCSIN_KAFKA__TOPIC="environment", TOCSIN_KAFKA__GROUP="environment")
    assert (found.kafka.bootstrap, found.kafka.topic) == ("file:1", "environment")
    found = load(tmp_path / "some.yaml", tenant="argument", kafka={"group": "argument"})
    assert (found.tenant, found.kafka.group, found.kafka.topic) == (
        "argument", "argument", "environment",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("variable", "value", "get", "expected"),
    [
        ("TOCSIN_TENANT", "acme", lambda s: s.tenant, "acme"),
        ("TOCSIN_KAFKA__BOOTSTRAP", "a:1,b:2", lambda s: s.kafka.connection()["bootstrap_servers"], ["a:1", "b:2"]),
        ("TOCSIN_WORKER__COMMIT", "250ms", lambda s: s.worker.commit, 0.25),
        ("TOCSIN_LIMITS__JSON_BYTES", "5000", lambda s: s.limits.json_bytes, 5000),
        ("TOCSIN_DEFAULTS__DRIFT__WARMUP_VALUES", "100", lambda s: s.of("x").drift.warmup_values, 100),
        ("TOCSIN_MODELS__FRAUD__TASK", "regression", lambda s: s.of("fraud").task, "regression"),
        ("TOCSIN_MODELS", '{"fraud": {"features": ["a"]}}', lambda s: s.of("fraud").features, ["a"]),
    ],
)  # fmt: skip
def test_every_key_is_a_variable_too(read: Load, variable, value, get, expected) -> None:
    assert get(read("", **{variable: value})) == expected


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("250ms", 0.25), ("30s", 30), ("5m", 300), ("12h", 43_200), ("14d", 1_209_600), ("1.5h", 5400),
     (" 2 m ", 120), ("7", 7), ("0.5", 0.5)],
)  # fmt: skip
def test_times_are_said_in_units(read: Load, text: str, seconds: float) -> None:
    assert read(f"defaults: {{labels: {{window: {text!r}}}}}").defaults.labels.window == seconds


def test_a_model_that_is_named_has_its_own_settings_and_the_others_the_defaults(read: Load) -> None:
    found = read(
        "defaults: {features: none}\nmodels: {fraud: {task: regression, labels: {window: 1d}}}"
    )
    assert found.of("fraud").task == "regression"
    assert found.of("fraud").labels.window == 86_400
    assert found.of("fraud").labels.early == ModelSettings().labels.early
    assert (found.of("other").task, found.of("other").features) == ("auto", "none")


@pytest.mark.parametrize(
    ("features", "reference", "are_read"),
    [("none", None, False), ("none", "of.npz", True), (["x"], None, True), ("all", None, True)],
)
def test_features_are_read_where_they_are_watched_or_compared_with_training(
    features: Any, reference: Any, are_read: bool
) -> None:
    drift = DriftSettings.model_construct(reference=reference)
    assert ModelSettings.model_construct(features=features, drift=drift).reads_features == are_read


# ---- what is wrong ----


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kafak: {}", r"kafak: unknown key; did you mean kafka\?"),
        ("kafka: {bootstrp: x}", r"kafka.bootstrp: unknown key; did you mean bootstrap\?"),
        ("models: {fraud: {label: {}}}", r"models.fraud.label: unknown key; did you mean labels\?"),
        ("models: {a: {drift: {adwin_delt: 1}}}", r"models.a.drift.adwin_delt: unknown key; did you mean adwin_delta\?"),
        ("defaults: {attack: {alpa: 1}}", r"defaults.attack.alpa: unknown key; did you mean alpha\?"),
        ("limits: {json_byte: 5}", r"limits.json_byte: unknown key; did you mean json_bytes\?"),
        ("worker: {xyzzy: 5}", "worker.xyzzy: unknown key; known are commit, poll"),
        ("worker: {commit: fast}", "worker.commit: .*number.*got 'fast'"),
        ("worker: {commit: 1.2.3s}", r"worker.commit: .*got '1\.2\.3s'"),
        ("worker: {commit: 0}", "worker.commit: .*greater than 0, got 0"),
        ("worker: {poll: .nan}", "worker.poll: .*got nan"),
        ("defaults: {labels: {window: .inf}}", "defaults.labels.window: .*got inf"),
        ("models: {a: {labels: {early: 1e300}}}", "models.a.labels.early: .*got '1e300'"),
        ("limits: {json_bytes: -5}", "limits: .*json_bytes must be above 0, got -5"),
        ("limits: {models: 1.5}", "limits.models: .*integer.*got 1.5"),
        ("tenant: 'a b'", "tenant: .*got 'a b'"),
        ("defaults: {drift: {warmup_values: 3}}", "defaults.drift.warmup_values: .*30, got 3"),
        ("defaults: {attack: {alpha: 0.0001}}", "defaults.attack: .*15000 scores would do"),
        ("defaults: {task: guess}", "defaults.task: .*classification.*got 'guess'"),
        ("kafka: 5", "kafka: .*dictionary"), ("models: [a]", "models: .*dictionary"),
        ("- kafka", "must hold keys with their values"), ("just text", "must hold keys"),
        ("1: 2", "must hold keys"), ("a: [", "some.yaml is not YAML"), ("\0", "is not YAML"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_refused_naming_key_value_and_fix(
    read: Load, text: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        read(text)


TIME = "a number of seconds or a time, as 250ms, 30s, 5m, 12h or 14d"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("defaults: {drift: {season_seconds: x}}", f"defaults.drift.season_seconds: must be 'auto' or {TIME}, got 'x'"),
        ("defaults: {drift: {season_seconds: -3}}", "defaults.drift.season_seconds: must be 'auto' or greater than 0, got -3"),
        ("defaults: {features: 3}", "defaults.features: must be 'all' or 'none' or a list of names, got 3"),
        ("defaults: {features: some}", "defaults.features: must be 'all' or 'none' or a list of names, got 'some'"),
        ("models: {my.model: {features: [a, 1]}}", "models.my.model.features[1]: must be text, got 1"),
        ("defaults: {drift: {learning: maybe}}", "defaults.drift.learning: must be true or false, got 'maybe'"),
        ("defaults: {drift: {reference: 5}}", "defaults.drift.reference: must be a path, got 5"),
        ("defaults: {drift: {budget_days: 1, budget_events: 2}}", "defaults.drift: give budget_events or budget_days, not both"),
        ("kafka: {topic: 5}", "kafka.topic: must be text, got 5"),
        ("worker: {commit: 3 weeks}", f"worker.commit: must be {TIME}, got '3 weeks'"),
        ("models: {7: {}}", "models.7: must be text, got 7"),
        # What a model inherits is wrong in one place, what it says itself in another.
        ("defaults: {features: 3}\nmodels: {a: {}}", "defaults.features: must be 'all' or 'none' or a list of names, got 3"),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_one_line_under_the_name_it_was_written(
    read: Load, text: str, line: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        read(text)
    assert str(caught.value) == line


def test_a_model_s_own_mistake_is_said_beside_that_of_the_defaults(read: Load) -> None:
    with pytest.raises(ConfigError) as caught:
        read("defaults: {features: 3}\nmodels: {a: {features: 4}}")
    assert [line.partition(":")[0] for line in str(caught.value).splitlines()] == [
        "defaults.features", "models.a.features",
    ]  # fmt: skip


def test_a_season_that_is_no_whole_days_is_named(read: Load) -> None:
    with pytest.raises(ConfigError, match=r"^defaults\.drift\.season_seconds: a season must be"):
        read("defaults: {drift: {season_seconds: 1h}}")


def test_further_detectors_are_looked_up_where_they_are_set(read: Load) -> None:
    text = "defaults: {{drift: {{extra_detectors: [{}]}}}}"
    found = read(text.format("kswin, 'hddm_w:drift_confidence=1e-4,lambda_val=0.1'"))
    assert len(found.defaults.drift.extra_detectors) == 2
    wrong = r"^defaults\.drift\.extra_detectors: no detector is called 'kswn', did you mean kswin\?"
    with pytest.raises(ConfigError, match=wrong):
        read(text.format("kswn"))
    with pytest.raises(ConfigError, match=r"extra_detectors: no module 'nowhere'"):
        read(text.format("'nowhere:Mine'"))


def test_all_that_is_wrong_is_said_at_once(read: Load) -> None:
    with pytest.raises(ConfigError) as caught:
        read("kafka: {topik: a}\nworker: {commit: 0}\ntenant: ''")
    assert [line.partition(":")[0] for line in str(caught.value).splitlines()] == [
        "tenant", "kafka.topik", "worker.commit",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("TOCSIN_KAFK__BOOTSTRAP", "x", r"TOCSIN_KAFK__BOOTSTRAP: no such setting; did you mean TOCSIN_KAFKA\?"),
        ("TOCSIN_KAFKA__BOOTSTRP", "x", r"kafka.bootstrp: unknown key; did you mean bootstrap\?"),
        ("TOCSIN_", "x", "TOCSIN_: no such setting"),
        ("TOCSIN_LIMITS__MODELS", "many", "limits.models: .*got 'many'"),
        ("TOCSIN_LIMITS__MODELS", "many", r"\(TOCSIN_LIMITS__MODELS\)"),
        ("TOCSIN_DEFAULTS__DRIFT__SEASON_SECONDS", "1w", r"season_seconds: must be 'auto' or a number"),
        ("TOCSIN_MODELS", "{fraud", "TOCSIN_MODELS: .*must be JSON.*; TOCSIN_MODELS__KEY sets one"),
    ],
)  # fmt: skip
def test_a_wrong_variable_is_refused_by_name(read: Load, variable, value, message) -> None:
    with pytest.raises(ConfigError, match=message):
        read("", **{variable: value})


def test_variables_of_tests_and_of_others_are_none_of_ours(read: Load) -> None:
    read("", TOCSIN_TEST_KAFKA_HOME="/x", TOCSIN_BENCH_SECONDS="1", TOCSINE="x")


# ---- secrets ----

SECRET = "hunter2"


@pytest.mark.parametrize(
    ("text", "variables"),
    [
        (f"kafka: {{password: [{SECRET}]}}", {}), (f"kafka: [{{password: {SECRET}}}]", {}),
        (f"redis: 'redis://:{SECRET}@host'", {}), (f"redis: {{url: ['redis://:{SECRET}@host']}}", {}),
        (f"kafka: '{SECRET}'", {}), (f"kafka: {{client: {SECRET}}}", {}),
        (f"kafka: {{password: {SECRET}, topic: 5}}", {}),
        (f"kafka: {{password: {SECRET}, bootstap: x}}", {}),
        (f"kafka:\n  password: {SECRET}: [", {}), (f"kafka: {{password: {SECRET}\n  topic: [", {}),
        ("", {"TOCSIN_REDIS": f"redis://:{SECRET}@host"}), ("", {"TOCSIN_KAFKA": f'{{"password":"{SECRET}"'}),
        ("", {"TOCSIN_KAFKA": f'{{"password":["{SECRET}"]}}'}),
        ("worker: {commit: 0}", {"TOCSIN_KAFKA__PASSWORD": SECRET}),
    ],
)  # fmt: skip
def test_no_error_shows_a_secret(read: Load, text: str, variables: dict[str, str]) -> None:
    with pytest.raises(ConfigError) as caught:
        read(text, **variables)
    assert SECRET not in str(caught.value)


def test_secrets_are_not_printed_with_the_settings(read: Load) -> None:
    found = read(
        "kafka: {sasl_mechanism: PLAIN, username: me}",
        TOCSIN_KAFKA__PASSWORD=SECRET, TOCSIN_REDIS__URL=f"redis://:{SECRET}@host",
    )  # fmt: skip
    assert SECRET not in repr(found) + str(found)
    assert found.kafka.connection()["sasl_plain_password"] == SECRET


def test_a_password_is_read_from_its_file(read: Load, tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text(f"{SECRET}\n")
    found = read(f"kafka: {{sasl_mechanism: PLAIN, username: me, password_file: {path}}}")
    assert found.kafka.connection()["sasl_plain_password"] == SECRET
    path.unlink()
    with pytest.raises(ConfigError, match=r"kafka.password_file: .*secret cannot be read"):
        found.kafka.secret()


# ---- limits ----


@pytest.mark.parametrize("name", Limits.__dataclass_fields__)
@pytest.mark.parametrize("value", [0, -1])
def test_a_limit_of_nothing_is_refused(name: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"{name} must be above 0, got {value}"):
        Limits(**{name: value})


def test_a_row_s_place_fits_its_bits() -> None:
    of: Any = Limits(batch_rows=1 << 20)
    assert of.batch_rows == 1_048_576
    with pytest.raises(ValueError, match="at most 1048576, got 1048577"):
        Limits(batch_rows=(1 << 20) + 1)


def test_a_named_model_inherits_the_defaults(read: Load) -> None:
    found = read(
        "defaults:\n  drift: {warmup_values: 500}\n  labels: {window: 60d}\n"
        "models:\n  fraud:\n    features: [a]\n    drift: {adwin_delta: 0.01}\n"
    )
    fraud = found.of("fraud")
    assert (fraud.drift.warmup_values, fraud.drift.adwin_delta) == (500, 0.01)
    assert fraud.labels.window == 60 * 86400
    assert fraud.features == ["a"]
    assert found.of("other").features == "all"


def test_a_window_is_of_whole_cohorts_that_are_kept() -> None:
    assert PerformanceSettings().window_cohorts == 7
    assert PerformanceSettings(cohort="12h", window="3d").window_cohorts == 6
    with pytest.raises(ValueError, match=r"window is 100s, cohort 1m: .* make it a multiple"):
        PerformanceSettings(cohort="60s", window="100s")
    with pytest.raises(ValueError, match=r"window is 30 cohorts long, .* is 10: raise it"):
        PerformanceSettings(cohorts=10, window="30d")


def test_times_that_do_not_fit_are_told_as_they_are_written() -> None:
    with pytest.raises(
        ValueError, match=r"maturity is 60d, but labels.window, .* only 14d: raise it"
    ):
        ModelSettings(performance={"maturity": "60d"})
