"""The verbs of the command line and their arguments; what they do stands in the files beside this."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

from cyclopts import App, Parameter

from .. import __version__

app = App(
    name="tocsin",
    help="Watch deployed PyTorch models for drift and attacks.",
    version=__version__,
    default_parameter=Parameter(negative=()),  # no --no-json, no --empty-column
)
alerts = App(name="alerts", help="Alerts: follow them.")
topics = App(name="topics", help="Kafka topics: create them.")
config = App(name="config", help="The configuration: check it.")
for group in (alerts, topics, config):
    app.command(group)

Config: TypeAlias = Annotated[Path | None, Parameter(name=["--config", "-c"])]


@app.command
def worker(*, config: Config = None, embedded: bool = False) -> int:
    """Run detectors over the events of a topic, until SIGTERM or Ctrl-C.

    Parameters
    ----------
    config
        A YAML file; tocsin.yaml in this folder where there is one.
    embedded
        Start a broker on port 9092 and a Redis on port 6379 as well, for a first look.
    """
    from .worker import run

    return run(config, embedded=embedded)


@app.command
def demo(*, headless: bool = False, speed: str = "1", seed: int = 0) -> int:
    """Watch a drift, wrong labels and an attack being caught, live; nothing to install.

    Parameters
    ----------
    headless
        Plain lines, no colours; the exit code says whether everything was caught.
    speed
        Times 300 predictions a second, or max.
    seed
        Another one tells another story of the same plot.
    """
    from .demo import run

    return run(headless=headless, speed=speed, seed=seed)


@app.command
def publish(
    file: Path,
    *,
    model: str,
    label: str | None = None,
    prediction: str | None = None,
    id: str | None = None,  # noqa: A002
    time: str | None = None,
    score: list[str] | None = None,
    segment: list[str] | None = None,
    rate: float | None = None,
    bootstrap: str | None = None,
    topic: str | None = None,
    version: str | None = None,
    config: Config = None,
) -> int:
    """Publish the rows of a CSV, JSON lines or Parquet file as predictions.

    Parameters
    ----------
    file
        Ending in .csv, .csv.gz, .jsonl, .jsonl.gz or .parquet. Columns that no option names are
        features; JSON lines that have a prediction_id are events as they stand.
    model
        The model's name.
    label
        The column with the truth, where it is known.
    prediction
        The column with the model's answer.
    id
        The column with the prediction's id; row numbers where not given.
    time
        The column with the event time; the time of publishing where not given.
    score
        Columns that hold scores; may be given several times.
    segment
        Columns by whose values performance is compared, as sex; may be given several times.
    rate
        Rows a second; as fast as possible where not given.
    bootstrap
        The brokers, host:port, if not those of the configuration.
    topic
        The topic, if not that of the configuration.
    version
        The model's version.
    config
        A YAML file; tocsin.yaml in this folder where there is one.
    """
    from .publish import Columns, run

    columns = Columns(
        label=label, prediction=prediction, id=id, time=time, scores=score or [], segments=segment or []
    )  # fmt: skip
    return run(file, model, columns, rate, bootstrap, topic, version, config)


@app.command
def backtest(
    file: Path,
    *,
    detector: list[str] | None = None,
    column: list[str] | None = None,
    label: str | None = None,
    prediction: str | None = None,
    time: str | None = None,
    drift: list[str] | None = None,
    annotations: Path | None = None,
    tolerance: int = 1000,
    merge: int = 500,
    json: bool = False,
    all: bool = False,  # noqa: A002
) -> int:
    """Run detectors over a file and, where its drifts are known, score them.

    Parameters
    ----------
    file
        Ending in .csv, .csv.gz, .jsonl, .jsonl.gz or .parquet.
    detector
        A name with its parameters, as adwin:delta=0.01,clock=1, or a class of your own as
        package.module:Class; may be given several times.
    column
        A column to watch; may be given several times. All with numbers where not given.
    label
        The column with the truth. With --prediction the errors are watched, alone it is watched itself.
    prediction
        The column with the model's answer; likewise.
    time
        The column with the event time, which must not go back, for detectors that know seasons: natural_size.
    drift
        A row, counted from 0, at which something changed, or the first and the last row of a
        gradual change as 20000-21000; may be given several times.
    annotations
        A JSON file with the same: {"changes": [[10000, 10000], [20000, 21000]]}.
    tolerance
        Rows after a drift within which an alarm is about it.
    merge
        Alarms less than so many rows apart count as one, over all columns; 0 for none.
    json
        All figures and alarms, as JSON.
    all
        Print all alarms, not only a detector's first ten.
    """
    from .backtest import Columns, run

    return run(
        file, detector or [], Columns(label=label, prediction=prediction, time=time),
        column or [], drift, annotations, tolerance, merge, as_json=json, show_all=all,
    )  # fmt: skip


@app.command
def reference(
    file: Path,
    out: Path | None = None,
    *,
    label: str | None = None,
    prediction: str | None = None,
    score: list[str] | None = None,
    segment: list[str] | None = None,
    id: str | None = None,  # noqa: A002
    time: str | None = None,
    trained_on: Path | None = None,
    without_fingerprints: bool = False,
    model: str | None = None,
    config: Config = None,
) -> int:
    """Write what the streams of training data are like, for workers to compare with (drift.reference); with FILE.npz alone, show it.

    Parameters
    ----------
    file
        Ending in .csv, .csv.gz, .jsonl, .jsonl.gz or .parquet. Columns that no option names are
        features. Rows that the model was not fitted on are best: errors on others are too few.
        Or, without OUT, a reference that is to be shown, ending in .npz.
    out
        Where to, ending in .npz: of each stream 2,048 values at most, in their order, and no rows but their fingerprints.
    label
        The column with the truth. With --prediction the errors are compared as well.
    prediction
        The column with the model's answer.
    score
        Columns that hold scores; may be given several times.
    segment
        Columns by whose values performance in training is told, as sex; may be given several times.
    id, time
        The columns with the row's id and time, which are no features.
    trained_on
        The file with the rows that the model was fitted on, with the same columns: what tells rows of training, and losses
        on them, is taken from it. All is taken from one file where not given.
    without_fingerprints
        Leave out what tells rows of training that are served later on: who holds it can test whether a row is one.
    model
        The model whose settings say what is watched; the defaults where not given.
    config
        A YAML file; tocsin.yaml in this folder where there is one.
    """
    from .reference import Columns, run, show

    if out is None:
        return show(file)
    columns = Columns(
        label=label, prediction=prediction, id=id, time=time, scores=score or [], segments=segment or []
    )  # fmt: skip
    return run(
        file,
        out,
        columns,
        model,
        config,
        trained_on=trained_on,
        fingerprints=not without_fingerprints,
    )


@app.command
def leakage(
    train: Path,
    test: Path,
    *,
    label: str | None = None,
    prediction: str | None = None,
    score: list[str] | None = None,
    id: str | None = None,  # noqa: A002
    group: list[str] | None = None,
    time: str | None = None,
    json: bool = False,
) -> int:
    """Check two files before training: rows, groups, times and features that leak over the split.

    Parameters
    ----------
    train
        What the model learns from, ending in .csv, .csv.gz, .jsonl, .jsonl.gz or .parquet.
    test
        What it is judged by, with the same columns.
    label
        The column with the truth; features that tell it too well are named. The column called label where there is one.
    prediction
        The column with a model's answer, which is no feature; may be in one file only. The one called prediction.
    score
        Columns that hold scores, which are no features; may be given several times. The one called score, if it is within 0 and 1.
    id
        The column with the row's id, which is no feature. The one called prediction_id.
    group
        A column whose values must not be in both files; may be given several times.
    time
        The column with the time, which must be later in the test file.
    json
        All rows, as JSON.
    """
    from .leakage import Columns, run

    columns = Columns(label=label, prediction=prediction, id=id, time=time, scores=score or [])
    return run(train, test, columns, group or [], as_json=json)


@app.command
def compare(
    file: Path,
    other: Path | None = None,
    *,
    label: str | None = None,
    prediction: str | None = None,
    score: str | None = None,
    segment: list[str] | None = None,
    positive: str | None = None,
    epsilon: float = 0.05,
    alpha: float = 0.05,
    json: bool = False,
) -> int:
    """Compare how a model does on two files, or for the groups of one: each metric, the gap, and whether it is one.

    Parameters
    ----------
    file
        Ending in .csv, .csv.gz, .jsonl, .jsonl.gz or .parquet; JSON lines that have a prediction_id are
        events as they stand.
    other
        What it is compared with; the groups of --segment where not given.
    label
        The column with the truth.
    prediction
        The column with the model's answer, a class.
    score
        The column with the probability of the positive class.
    segment
        A column whose values are groups, or several with * between them; may be given several times. With two
        files these are compared within each group as well.
    positive
        The class that recall and the like are about; of two the one that is 1, or sorts last.
    epsilon
        The gap that is nobody's concern, as a difference of rates.
    alpha
        The probability that any gap within that is called different.
    json
        All figures, as JSON.
    """
    from .compare import run

    files = [file] if other is None else [file, other]
    return run(
        files, label, prediction, score, segment or [], positive, epsilon, alpha, as_json=json
    )


@alerts.command
def tail(
    *,
    model: str | None = None,
    name: str | None = None,
    after: str | None = None,
    json: bool = False,
    count: Annotated[int | None, Parameter(name=["--count", "-n"])] = None,
    config: Config = None,
) -> int:
    """Print alerts as they come, none lost and none twice.

    Parameters
    ----------
    model
        Only this model's.
    name
        Remember under this name what was printed, and go on from there next time.
    after
        Begin after this stream id, unless the name is known; 0 prints all that are kept.
    json
        One JSON object a line.
    count
        End after so many.
    config
        A YAML file; tocsin.yaml in this folder where there is one.
    """
    from .alerts import run

    return run(config, model=model, name=name, after=after, as_json=json, count=count)


@topics.command
def create(*, partitions: int = 128, replication: int = 1, config: Config = None) -> int:
    """Create the topics of events and dead letters, if they are not there.

    Parameters
    ----------
    partitions
        Of the topic of events. Choose once: a model's events move to another partition when
        this changes, and its state does not follow.
    replication
        Copies of each partition.
    config
        A YAML file; tocsin.yaml in this folder where there is one.
    """
    from .topics import run

    return run(config, partitions, replication)


@app.command
def doctor(*, config: Config = None) -> int:
    """Check Kafka, the topics, Redis and what is installed: each ok, or what to do.

    Parameters
    ----------
    config
        A YAML file; tocsin.yaml in this folder where there is one.
    """
    from .doctor import run

    return run(config)


@app.command
def status(*, json: bool = False, config: Config = None) -> int:
    """Print what the workers know of each model: events, labels, accuracy, open incidents.

    Parameters
    ----------
    json
        All figures, as JSON.
    config
        A YAML file; tocsin.yaml in this folder where there is one.
    """
    from .status import run

    return run(config, as_json=json)


@app.command
def metrics(
    model: str,
    *,
    environment: str = "production",
    group: str | None = None,
    metric: list[str] | None = None,
    last: int = 30,
    window: bool = False,
    json: bool = False,
    config: Config = None,
) -> int:
    """Print a model's performance by the time of its predictions, with intervals, label coverage and a picture.

    Parameters
    ----------
    model
        The model's name.
    environment
        production, shadow, reference or training.
    group
        One group of a segment, as sex=F, or all to see each; all predictions together where not given.
    metric
        What to show; may be given several times. The usual ones where not given.
    last
        So many of the latest cohorts.
    window
        Their latest few together, a week of days (performance.window), one line a group, instead of cohorts.
    json
        All figures, as JSON.
    config
        A YAML file; tocsin.yaml in this folder where there is one.
    """
    from .metrics import run

    return run(
        config,
        model,
        environment=environment,
        group=group,
        metrics=metric or [],
        last=last,
        window=window,
        as_json=json,
    )


@app.command
def decision(model: str, *, json: bool = False, config: Config = None) -> int:
    """Print which version or environment of a model is better, by how much, or how many more events it takes to say.

    Parameters
    ----------
    model
        The model's name; its bias.segments names version or environment.
    json
        All figures, as JSON.
    config
        A YAML file; tocsin.yaml in this folder where there is one.
    """
    from .decision import run

    return run(config, model, as_json=json)


@config.command
def check(config: Config = None) -> int:
    """Check a configuration file and the TOCSIN_ variables.

    Parameters
    ----------
    config
        A YAML file; tocsin.yaml in this folder where there is one.
    """
    from .config import run

    return run(config)


@app.command
def schema(*, write: Path | None = None) -> int:
    """Print the AsyncAPI document, or write it and the JSON Schemas.

    Parameters
    ----------
    write
        A folder.
    """
    from .schema import run

    return run(write)
