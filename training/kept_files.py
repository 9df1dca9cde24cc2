"""The files of one training in its folder: which are written and taken away, and in which order, so that at any moment the folder is right."""

from __future__ import annotations

import logging
import os
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias

import msgspec
from torch import nn

from ..core.errors import ConfigError, StorageError
from . import checkpoint_file
from .checkpoint_file import SUFFIX, Record, Role
from .template import also_known
from .top_k import Newest, TopK

_log = logging.getLogger(__name__)

Source: TypeAlias = tuple[nn.Module, Callable[[], Mapping[str, Any] | None]]


class KeptFiles:
    """The best, the last, and those of crossings.

    What comes is on the disk before what goes is taken away; what is in memory changes after the disk has. So a killed process leaves at most
    one file too many, and one name (`last`) that is a step behind: `take_up` sees to both.

    Parameters
    ----------
    folder
        Where; made with the first file.
    ranking
        Which are kept.
    save_last
        See `ModelCheckpoint`.
    """

    def __init__(
        self, folder: Path, ranking: TopK | Newest, save_last: bool | Literal["link"] | None
    ) -> None:
        self.folder = folder
        self.ranking = ranking
        self.last = ""
        self._save_last = save_last
        self._run, self._order = uuid.uuid4().hex, 0
        self._newest = ""
        self._saved: str | None = None
        self._leaving: set[str] = set()

    def save(self, stem: str, record: Record, source: Source, *, again: bool) -> str | None:
        """Save what may be one of the best, and the last; return the name of the file among the best.

        Parameters
        ----------
        stem, record, source
            Its name, what is known of it, and where the rest is from.
        again
            Whether this step was tried before, and failed: what is among the best by now stays as it is.

        Raises
        ------
        StorageError
            The disk is full, or refuses.
        """
        saved = self._saved = self._saved if again else None
        if saved is None and self.ranking.takes(record.score):
            saved, leaving = self._free(stem, self.ranking.reusable), self.ranking.leaving
            self._write(saved, "best", record, source)
            self.ranking.add(saved, record.score)
            self._saved = saved
            self._leaving = (self._leaving | {leaving}) - {"", saved}
        try:
            if self._save_last:
                self._write_last(saved, record, source)
        finally:
            self._take_away()
        return saved

    def save_last(self, record: Record, source: Source) -> None:
        """Save the last only, where it is asked for."""
        if self._save_last:
            self._write_last(None, record, source)

    def save_crossing(self, stem: str, record: Record, source: Source) -> None:
        """Save what is always kept."""
        self._write(self._free(f"crossing-{stem}", ""), "crossing", record, source)

    def take_up(self, of_run: dict[str, Record], scores: dict[str, float | None]) -> None:
        """Be where a training's files, oldest first, say it was, those of `scores` ranked, and finish what it had begun."""
        name, newest = next(reversed(of_run.items()))
        self._run, self._order, self._newest = newest.run, newest.order, name
        k, self.ranking.k = self.ranking.k, -1
        for one, record in of_run.items():
            if record.role == "best":
                self.ranking.add(one, scores[one])
            elif record.role == "last":
                self.last = one
        self.ranking.k = k
        for path in sorted(self.folder.glob(f"last*{SUFFIX}")):
            if path.is_symlink() and path.resolve().name in of_run:
                self.last = path.name
        pointed = of_run.get((self.folder / self.last).resolve().name)
        if (
            self._save_last
            and newest.role == "best"
            and (not pointed or pointed.order < newest.order)
        ):
            self._finish_last(name, newest)
        while 0 < k < len(self.ranking.scores):
            self._leaving.add(self.ranking.worst)
            self.ranking.scores.pop(self.ranking.worst)
        self._take_away()

    def _take_away(self) -> None:
        """Remove what is among the best no more. The newest file, which a training goes on from, and the one that `last` is wait for a newer one."""
        needed = {self._newest, (self.folder / self.last).resolve().name}
        for name in self._leaving - needed:
            checkpoint_file.remove(self.folder / name)
        self._leaving &= needed

    def _write_last(self, saved: str | None, record: Record, source: Source) -> None:
        last = self._free("last", self.last)
        if self._save_last == "link" and saved:
            checkpoint_file.link(self.folder / last, self.folder / saved)
        else:
            self._write(last, "last", record, source)
        self.last = last

    def _finish_last(self, name: str, newest: Record) -> None:
        """Write `last` where the process was killed between the best and it."""
        last = self._free("last", self.last)
        try:
            if self._save_last == "link":
                checkpoint_file.link(self.folder / last, self.folder / name)
            else:
                self._order += 1
                record = msgspec.structs.replace(newest, role="last", order=self._order)
                checkpoint_file.copy(self.folder / name, self.folder / last, record)
            self.last = last
        except StorageError as error:
            _log.warning("%s is older than %s: %s", last, name, error)

    def _write(self, name: str, role: Role, record: Record, source: Source) -> None:
        self._order += 1
        record = msgspec.structs.replace(
            record, run=self._run, order=self._order, saved_ns=time.time_ns(), role=role
        )
        checkpoint_file.write(self.folder / name, source[0], record, source[1]())
        self._newest = name

    def _free(self, stem: str, own: str) -> str:
        """Return a name that no file has, or the one that is `own`, as Lightning numbers them."""
        name, version = f"{stem}{SUFFIX}", 1
        while os.path.lexists(self.folder / name) and name != own:
            name = f"{stem}-v{version}{SUFFIX}"
            version += 1
        return name


def scores_by(monitor: str | None, of_run: dict[str, Record]) -> dict[str, float | None]:
    """Return the values of a quantity by the names of a training's best files, oldest first; of one that was saved without it that of its own quantity."""
    scores: dict[str, float | None] = {}
    for name, record in of_run.items():
        if record.role == "best":
            known = record.metrics | {
                one: record.metrics[of] for one, of in also_known(record.metrics).items()
            }
            is_own = monitor in {None, record.monitor}
            scores[name] = record.score if is_own else known.get(monitor or "", record.score)
    return scores


def check_monitor(monitor: str | None, of_run: dict[str, Record]) -> None:
    """Raise a ConfigError where one of a training's best files was saved without a quantity."""
    for name, record in of_run.items():
        known = {None, record.monitor, *record.metrics, *also_known(record.metrics)}
        if record.role == "best" and monitor not in known:
            found = ", ".join(record.metrics) or "none"
            raise ConfigError(
                f"monitor={monitor!r} is not among the metrics saved in {name} ({found}); resume with one that is, or begin a training"
                " with ModelCheckpoint(dirpath, ...)"
            )


def newest_training(folder: Path) -> tuple[dict[str, Record], dict[str, Record]]:
    """Return the records of a folder's newest training, oldest first, and those of all of its checkpoints.

    Raises
    ------
    ConfigError
        There is none.
    """
    found, damaged = checkpoint_file.records(folder) if folder.is_dir() else ({}, [])
    if damaged:
        names = ", ".join(damaged)
        _log.warning("%s: no checkpoints of tocsin, or damaged, and passed over: %s", folder, names)
    if not found:
        unread = f" ({', '.join(damaged)} cannot be read)" if damaged else ""
        raise ConfigError(
            f"there is no checkpoint in {folder}{unread}; expected a folder that ModelCheckpoint wrote to."
            " A training that begins makes one with ModelCheckpoint(dirpath, ...)"
        )
    run = next(reversed(found.values())).run
    of_run = [(name, record) for name, record in found.items() if record.run == run]
    return dict(sorted(of_run, key=lambda item: item[1].order)), found
