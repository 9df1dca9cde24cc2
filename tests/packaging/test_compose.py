"""The compose file, as far as it can be checked without a Docker engine.

What its containers would run is run here as plain processes: Redis, topics, worker and sample stream.
Its Kafka is run where TOCSIN_TEST_KAFKA_HOME names an unpacked Apache Kafka, else the embedded broker
stands in for it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib import metadata, resources
from pathlib import Path
from typing import Any, Self

import jsonschema
import pytest
import redis
import river
import yaml
from cyclopts import CycloptsError

from tocsin.cli.commands import app
from tocsin.consumers.settings import Settings, load
from tocsin.consumers.topics import partitions_of
from tocsin.core.errors import ConfigError
from tocsin.core.keys import Keys
from tocsin.embedded import EmbeddedBroker
from tocsin.embedded.process import Address, Server, accepts, free_port
from tocsin.embedded.redis_server import _program as redis_program
from tocsin.producers.files import Columns, rows

pytestmark = pytest.mark.xdist_group("compose")

ROOT = Path(__file__).parents[2]
VERSION = metadata.version("tocsin")
OURS = ("topics", "worker", "producer")
SECONDS = {"s": 1, "m": 60}


def interpolated(text: str, variables: dict[str, str] | None = None) -> str:
    """Replace `${NAME:-default}`, the only form that the file uses."""
    given = variables or {}
    return re.sub(r"\$\{(\w+):-([^}]*)\}", lambda m: given.get(m[1], m[2]), text)


def read_compose(**variables: str) -> dict[str, Any]:
    text = (ROOT / "docker-compose.yml").read_text()
    found: dict[str, Any] = yaml.safe_load(interpolated(text, variables))
    return found


COMPOSE = read_compose()
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]


def instruction(name: str) -> str:
    """Return what follows the last instruction of a name in the Dockerfile."""
    text = (ROOT / "deploy/Dockerfile").read_text()
    found: list[str] = re.findall(rf"^{name}[ =](\S+)", text, re.MULTILINE)
    return found[-1]


def parsed(words: list[str]) -> Callable[..., Any]:
    """Return the verb that a command line names, its arguments converted; raise if there is none."""
    command, _, _ = app.parse_args(words, exit_on_error=False, print_error=False)
    return command


# --- the compose file ----------------------------------------------------------------------------


def test_the_file_is_valid_by_the_specifications_schema() -> None:
    folder = resources.files("check_jsonschema").joinpath("builtin_schemas", "vendor")
    schema = json.loads(folder.joinpath("compose-spec.json").read_text(encoding="utf-8"))
    checker = jsonschema.validators.validator_for(schema)(schema)
    assert [error.message for error in checker.iter_errors(COMPOSE)] == []
    broken = {**COMPOSE, "services": {"worker": {"image": "tocsin", "restrat": "no"}}}
    assert not checker.is_valid(broken)


@pytest.mark.parametrize("name", SERVICES)
def test_images_are_pinned(name: str) -> None:
    image = SERVICES[name]["image"]
    assert re.fullmatch(r"[a-z/]+:\d+\.\d+\.\d+(-[a-z]+)?", image), image
    if name in OURS:
        assert image == f"tocsin:{VERSION}"
        build = SERVICES[name]["build"]
        assert (ROOT / build["context"] / build["dockerfile"]).samefile(ROOT / "deploy/Dockerfile")
    else:
        assert "build" not in SERVICES[name]


def test_ports_are_open_to_this_machine_only() -> None:
    published = {name: s["ports"] for name, s in SERVICES.items() if "ports" in s}
    assert published == {"kafka": ["127.0.0.1:9092:9092"], "redis": ["127.0.0.1:6379:6379"]}
    other = read_compose(KAFKA_PORT="29092", REDIS_PORT="26379")["services"]
    assert other["kafka"]["ports"] == ["127.0.0.1:29092:9092"]
    assert "HOST://127.0.0.1:29092" in other["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"]
    assert other["redis"]["ports"] == ["127.0.0.1:26379:6379"]


def test_services_wait_for_what_they_need() -> None:
    waits = {name: s.get("depends_on", {}) for name, s in SERVICES.items()}
    for name, needs in waits.items():
        for needed, how in needs.items():
            assert needed in SERVICES, name
            if how["condition"] == "service_healthy":
                assert "healthcheck" in SERVICES[needed], needed
            else:
                assert how["condition"] == "service_completed_successfully"
                assert SERVICES[needed]["restart"] == "no", needed
    assert set(waits["worker"]) == {"kafka", "redis", "topics"}
    assert "topics" in waits["producer"]
    assert "kafka" in waits["topics"]


def test_data_lies_in_declared_volumes() -> None:
    mounts = {name: SERVICES[name]["volumes"] for name in ("kafka", "redis")}
    assert mounts == {"kafka": ["kafka-data:/var/lib/kafka/data"], "redis": ["redis-data:/data"]}
    assert set(COMPOSE["volumes"]) == {"kafka-data", "redis-data"}
    assert SERVICES["kafka"]["environment"]["KAFKA_LOG_DIRS"] == "/var/lib/kafka/data"
    for name in OURS:
        (mount,) = SERVICES[name]["volumes"]
        assert (ROOT / mount["source"]).is_file()
        assert mount["target"] == f"{instruction('WORKDIR')}/tocsin.yaml"
        assert mount["read_only"] is True


@pytest.mark.parametrize("name", OURS)
def test_its_settings_are_known_and_taken(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given = SERVICES[name]["environment"]
    assert given
    for variable, value in given.items():
        assert variable.startswith("TOCSIN_")
        monkeypatch.setenv(variable, value)
    settings = load(ROOT / "deploy/tocsin.yaml")
    announced = listeners(SERVICES["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"])
    assert settings.kafka.bootstrap == announced["INSIDE"]
    assert settings.redis.url == "redis://redis:6379/0"
    assert settings.of("occupancy").features == ["V1", "V2", "V3", "V4"]
    monkeypatch.setenv("TOCSIN_KAFKA__BOOTSTRAPS", "kafka:19092")
    with pytest.raises(ConfigError, match="bootstraps"):
        load(ROOT / "deploy/tocsin.yaml")


def test_the_configuration_passes_its_own_check() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tocsin.cli.main", "config", "check", "deploy/tocsin.yaml"],
        cwd=ROOT, env=clean(), capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.startswith("ok: ")
    # Only what differs from a default, or is there to be changed, is worth a line.
    keys = yaml.safe_load((ROOT / "deploy/tocsin.yaml").read_text())
    assert set(keys) <= set(Settings.model_fields)


@pytest.mark.parametrize(
    ("name", "verb"), [("topics", "create"), ("worker", "worker"), ("producer", "publish")]
)
def test_its_command_is_understood(name: str, verb: str) -> None:
    assert parsed(SERVICES[name]["command"]).__name__ == verb
    with pytest.raises(CycloptsError):
        parsed([*SERVICES[name]["command"], "--no-such-option", "1"])


def listeners(text: str) -> dict[str, str]:
    return dict(part.split("://") for part in text.split(","))


def test_kafka_announces_where_it_can_be_reached() -> None:
    kafka = SERVICES["kafka"]["environment"]
    bound, announced = (listeners(kafka[f"KAFKA_{n}LISTENERS"]) for n in ("", "ADVERTISED_"))
    assert announced["INSIDE"] == f"kafka{bound['INSIDE']}"
    assert SERVICES["kafka"]["ports"] == [f"{announced['HOST']}{bound['HOST']}"]
    # The controller is neither announced nor bound where others could reach it.
    assert set(announced) == {"INSIDE", "HOST"}
    assert bound["CONTROLLER"].startswith("localhost:")
    assert kafka["KAFKA_CONTROLLER_QUORUM_VOTERS"] == f"1@{bound['CONTROLLER']}"
    assert SERVICES["kafka"]["healthcheck"]["test"][-1] == announced["INSIDE"]
    assert all(isinstance(value, str) for value in kafka.values())  # YAML would say True for "true"


def test_the_worker_is_given_time_to_stop_and_is_started_again() -> None:
    worker = SERVICES["worker"]
    assert seconds(worker["stop_grace_period"]) >= 2 * 5  # it promises five
    assert worker["restart"] == "unless-stopped"
    for name in OURS:
        assert SERVICES[name]["init"] is True
        assert "container_name" not in SERVICES[name]  # or --scale would be refused
        assert "ports" not in SERVICES[name]


def seconds(text: str) -> int:
    return int(text[:-1]) * SECONDS[text[-1]]


def sample() -> Path:
    """Return here the file that the sample stream reads in the image."""
    (place,) = [word for word in SERVICES["producer"]["command"] if word.startswith("/")]
    base = instruction("ARG BASE")
    version = re.search(r"python:(\d+\.\d+)", base)
    assert version is not None
    home, _, inner = place.partition("/site-packages/")
    assert home == f"/opt/tocsin/lib/python{version[1]}"
    return Path(river.__file__).parents[1] / inner


def test_the_sample_is_a_file_that_river_ships() -> None:
    path = sample()
    shipped = {str(file.locate()) for file in metadata.files("river") or []}
    assert str(path) in {str(Path(name).resolve()) for name in shipped} | shipped
    found = list(rows(path, Columns(time="time")))
    assert len(found) == 509
    assert set(found[0].features) == {"V1", "V2", "V3", "V4"}
    text = (ROOT / "docker-compose.yml").read_text() + (ROOT / "deploy/README.md").read_text()
    assert text.count("509 readings") == 2


def test_the_documents_name_services_and_verbs_that_exist() -> None:
    text = (ROOT / "docker-compose.yml").read_text() + (ROOT / "deploy/README.md").read_text()
    named = re.findall(r"docker compose (?:exec|logs --follow|restart) (\w+)", text)
    named += re.findall(r"--scale (\w+)=", text)
    assert {"redis", "worker", "producer"} == set(named)
    verbs = re.findall(r"exec worker tocsin ([a-z][a-z0-9 -]+?) *(?:#|$)", text, re.MULTILINE)
    verbs += re.findall(r"`tocsin ([^`]+)`", text)
    assert len(verbs) == 3
    for verb in verbs:
        parsed(verb.split())
    for channel in re.findall(r"SUBSCRIBE (\S+)", text):
        assert channel == Keys().channel


# --- the compose file, as processes --------------------------------------------------------------


def clean() -> dict[str, str]:
    return {name: v for name, v in os.environ.items() if not name.startswith("TOCSIN_")}


class Kafka:
    """The compose file's broker, configured by the program that the image starts with."""

    client_settings: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, home: Path, folder: Path) -> None:
        inside, host, controller = free_port(), free_port(), free_port()
        environment = {
            name: value.replace("kafka:19092", f"127.0.0.1:{inside}")
            .replace(":19092", f":{inside}").replace(":9092", f":{host}")
            .replace("localhost:9093", f"localhost:{controller}")
            .replace("/var/lib/kafka/data", str(folder / "data"))
            for name, value in SERVICES["kafka"]["environment"].items()
        }  # fmt: skip
        for name in ("default", "mounted", "final"):
            (folder / name).mkdir()
        for name in ("server.properties", "log4j2.yaml", "tools-log4j2.yaml"):
            (folder / "default" / name).touch()
        heap = environment["KAFKA_HEAP_OPTS"].split()
        java = [
            shutil.which("java") or "java", *heap, "-XX:TieredStopAtLevel=1", "-cp", f"{home}/libs/*",
            f"-Dlog4j2.configurationFile={home}/log4j2.properties",
        ]  # fmt: skip
        subprocess.run(
            [
                *java, "kafka.docker.KafkaDockerWrapper", "setup",
                "--default-configs-dir", str(folder / "default"),
                "--mounted-configs-dir", str(folder / "mounted"),
                "--final-configs-dir", str(folder / "final"),
            ],
            env={**clean(), **environment}, check=True,
        )  # fmt: skip
        self.properties = (folder / "final/server.properties").read_text()
        self.bootstrap = f"127.0.0.1:{inside}"
        self._log = folder / "log"
        command = [*java, "kafka.Kafka", str(folder / "final/server.properties")]
        self._server = Server("Kafka", command, Address("127.0.0.1", host), self._log)

    def __enter__(self) -> Self:
        self._server.start(lambda: "Kafka Server started" in self._log.read_text())
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop()


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka | EmbeddedBroker]:
    home = os.environ.get("TOCSIN_TEST_KAFKA_HOME")
    if home:
        with Kafka(Path(home).resolve(), tmp_path_factory.mktemp("kafka")) as kafka:
            yield kafka
    else:
        with EmbeddedBroker() as embedded:
            yield embedded


@contextmanager
def redis_server(folder: Path, *, kill: bool = False) -> Iterator[redis.Redis]:
    """Run the compose file's Redis on a folder."""
    name, *arguments = SERVICES["redis"]["command"]
    assert name == "redis-server"
    address = Address("127.0.0.1", free_port())
    here = ["--port", str(address.port), "--bind", address.host, "--dir", str(folder)]
    server = Server("Redis", [redis_program(), *arguments, *here], address, folder / "log")
    server.start(lambda: accepts(address))
    client = redis.Redis(host=address.host, port=address.port)
    try:
        eventually(lambda: answers(client))
        yield client
    finally:
        client.close()
        server.kill() if kill else server.stop()


def answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.BusyLoadingError:
        return False


def eventually(condition: Callable[[], Any], seconds: float = 60.0) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(f"did not happen within {seconds} s")


def test_redis_keeps_what_it_was_told_when_it_is_killed(tmp_path: Path) -> None:
    with redis_server(tmp_path, kill=True) as client:
        wanted = {
            "appendonly": "yes", "appendfsync": "everysec", "save": "",
            "maxmemory-policy": "noeviction", "maxmemory": str(1 << 30),
        }  # fmt: skip
        assert {name: client.config_get(name)[name] for name in wanted} == wanted
        client.hset("state", "offset", 7)
    with redis_server(tmp_path) as client:
        assert client.hget("state", "offset") == b"7"


def test_what_compose_starts_raises_the_samples_alert(
    broker: Kafka | EmbeddedBroker, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        store = stack.enter_context(redis_server(tmp_path))
        url = f"redis://127.0.0.1:{store.connection_pool.connection_kwargs['port']}/0"

        def given(name: str) -> dict[str, str]:
            found = {
                variable: value.replace("kafka:19092", broker.bootstrap)
                .replace("redis://redis:6379/0", url)
                for variable, value in SERVICES[name]["environment"].items()
            }  # fmt: skip
            assert {broker.bootstrap, url} <= set(found.values())
            return {**clean(), **found, "TOCSIN_KAFKA__CLIENT": json.dumps(broker.client_settings)}

        def run(name: str, *words: str) -> str:
            done = subprocess.run(
                [sys.executable, "-m", "tocsin.cli.main", *words], env=given(name),
                cwd=ROOT / "deploy", capture_output=True, text=True, check=False,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
            return done.stdout

        assert run("topics", *SERVICES["topics"]["command"]).count("created") == 2
        connection = {"bootstrap_servers": broker.bootstrap}
        assert len(partitions_of(connection, "tocsin.events")) == 128
        assert "was there" in run("topics", *SERVICES["topics"]["command"])

        channel = stack.enter_context(store.pubsub(ignore_subscribe_messages=True))
        channel.subscribe("tocsin:alerts")
        log = stack.enter_context((tmp_path / "worker.log").open("wb"))
        worker = subprocess.Popen(
            [sys.executable, "-m", "tocsin.cli.main", *SERVICES["worker"]["command"]],
            env=given("worker"), cwd=ROOT / "deploy", stdout=log, stderr=log,
        )  # fmt: skip
        try:
            words = [
                str(sample()) if w.startswith("/") else w for w in SERVICES["producer"]["command"]
            ]
            words[words.index("--rate") + 1] = "1000"
            assert "509 events sent, 0 failed" in run("producer", *words)
            message = eventually(lambda: channel.get_message(timeout=0.1))
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(seconds(SERVICES["worker"]["stop_grace_period"])) == 0
        finally:
            worker.kill()
            worker.wait()
        alert = json.loads(message["data"])
        assert (alert["model"], alert["state"], alert["kind"]) == (
            "occupancy",
            "firing",
            "data drift",
        )
        assert "V2" in alert["summary"]
        # "About a minute after the start", as the file and its README say.
        rate = float(SERVICES["producer"]["command"][-1])
        assert 50 < int(alert["prediction_id"].removeprefix("row-")) / rate < 70
        # What came too late for the channel is in the stream.
        assert store.xlen(Keys().alerts) == 1


@pytest.mark.skipif(
    "TOCSIN_TEST_KAFKA_HOME" not in os.environ,
    reason="no TOCSIN_TEST_KAFKA_HOME: the compose file's settings of Kafka are not run",
)
def test_kafka_takes_every_setting(broker: Kafka) -> None:
    found = dict(line.split("=", 1) for line in broker.properties.splitlines() if "=" in line)
    for name in SERVICES["kafka"]["environment"]:
        if name.startswith("KAFKA_") and name != "KAFKA_HEAP_OPTS":
            assert name.removeprefix("KAFKA_").replace("_", ".").lower() in found
