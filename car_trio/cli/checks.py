"""What `car-trio doctor` looks at: one function per question, each yields what it found.

A check reads and never changes anything; what is provably safe to mend carries a `mend` that does it. A finding names
the object, the cause and the next command. Checks need no daemon, and none may hang or fail because something is
broken: that is what they are for.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Literal

import car_trio
from car_trio.cli.files import Files
from car_trio.cli.screen import human_size, moment
from car_trio.cli.status import DaemonFile, daemon_file
from car_trio.config import Config, ConfigError
from car_trio.store.layout import decode_name, parse_run_file
from car_trio.store.lock import lock_is_held
from car_trio.wire.runs import SearchRuns

MIN_SQLITE = (3, 35)


@dataclass(slots=True)
class Finding:
    """What a check found. `ok` findings say what is well; the others say what to do next."""

    level: Literal["ok", "warning", "error"]
    what: str
    next: str = ""
    mend: Callable[[], object] | None = None


@dataclass(slots=True)
class Patient:
    """What is looked at."""

    files: Files
    config: Config
    beside: bool
    """A daemon holds the store."""
    daemon: DaemonFile | None
    unusable: ConfigError | None = None
    """What is wrong with the configuration; then `config` is the defaults."""

    @classmethod
    def of(cls, files: Files, config: Config, unusable: ConfigError | None) -> Patient:
        return cls(files, config, lock_is_held(files.layout), daemon_file(files), unusable)

    @property
    def root(self) -> Path:
        return self.files.root


Found = Iterator[Finding]


def ok(what: str) -> Finding:
    return Finding("ok", what)


def tokens(patient: Patient) -> list[Path]:
    directory = patient.config.token_directory
    return [patient.config.auth_token_file or directory / "auth-token", directory / "host-token"]


# The machine


def python(_: Patient) -> Found:
    yield ok(f"Python {sys.version.split()[0]}, car-trio {car_trio.__version__}")


def sqlite(_: Patient) -> Found:
    import sqlite3

    if sqlite3.sqlite_version_info < MIN_SQLITE:
        yield Finding(
            "error", f"SQLite {sqlite3.sqlite_version} is older than 3.35", "install a newer Python"
        )
    else:
        yield ok(f"SQLite {sqlite3.sqlite_version}")


def clock(patient: Patient) -> Found:
    """Times of runs order lists and decide retention."""
    now = datetime.now(UTC)
    newest = next(iter(patient.files.search(SearchRuns(limit=1))), None)
    then = moment(newest.started_at) if newest else None
    if now.year < 2024:
        yield Finding("error", f"the clock says {now:%Y-%m-%d}", "set the clock; retention goes by it")
    elif newest and then and (then - now).total_seconds() > 60:
        yield Finding(
            "warning", f"run {newest.run_id} begins in the future: {newest.started_at}", "check the clock"
        )
    else:
        yield ok("the clock is not behind the runs")


def descriptors(patient: Patient) -> Found:
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = patient.config.server.max_connections + 256
    if hard != resource.RLIM_INFINITY and hard < wanted:
        yield Finding("warning", f"at most {hard} open files, {wanted} may be wanted", "raise ulimit -Hn")
    else:
        yield ok("enough open files are allowed")


def free_space(patient: Patient) -> Found:
    if not patient.root.exists():
        return
    free, kept = shutil.disk_usage(patient.root).free, patient.config.runs.keep_free_bytes
    if free < kept:
        yield Finding(
            "error",
            f"{patient.root}: {human_size(free)} free, below the {human_size(kept)} that stay free: runs are refused",
            "free space, or car-trio runs prune --older-than 30d",
        )
    else:
        yield ok(f"{human_size(free)} free")


# The directories


def root_exists(patient: Patient) -> Found:
    if not patient.root.exists():
        yield Finding("warning", f"{patient.root} does not exist yet", "car-trio serve makes it")
    else:
        yield ok(f"state root {patient.root}")


def owners(patient: Patient) -> Found:
    layout = patient.files.layout
    for path in (layout.root, layout.run, layout.runs, layout.catalog, layout.lock):
        if path.exists() and path.stat().st_uid != os.geteuid():
            uid = path.stat().st_uid
            yield Finding(
                "error", f"{path} belongs to user {uid}, not to you", f"chown it, or run as user {uid}"
            )


def root_writable(patient: Patient) -> Found:
    if patient.root.is_dir() and not os.access(patient.root, os.W_OK | os.X_OK):
        yield Finding("error", f"{patient.root} cannot be written", f"chmod u+rwx {patient.root}")


def private_directories(patient: Patient) -> Found:
    layout = patient.files.layout
    for path in (layout.run, layout.runs, patient.config.token_directory):
        if path.is_dir() and path.stat().st_mode & 0o077:
            yield Finding(
                "error",
                f"{path} can be read or entered by others",
                f"chmod 700 {path}",
                partial(path.chmod, 0o700),
            )


def private_files(patient: Patient) -> Found:
    layout = patient.files.layout
    paths = [layout.catalog, layout.config, layout.daemon_json, layout.deleted_runs, *tokens(patient)]
    for path in paths:
        if path.is_file() and path.stat().st_mode & (0o022 if path == layout.config else 0o077):
            yield Finding(
                "error", f"{path} is open to others", f"chmod 600 {path}", partial(path.chmod, 0o600)
            )


def links(patient: Patient) -> Found:
    layout = patient.files.layout
    for path in (layout.run, layout.runs, layout.catalog, layout.lock):
        if path.is_symlink():
            yield Finding(
                "error", f"{path} is a link: nothing under the state root is followed", f"remove {path}"
            )


def strangers(patient: Patient) -> Found:
    """What lies among the runs and is none."""
    runs = patient.files.layout.runs
    for path in sorted(runs.iterdir()) if runs.is_dir() else []:
        if path.name == ".nobackup":
            continue
        if path.is_symlink() or not path.is_dir() or decode_name(path.name) is None:
            yield Finding("warning", f"{path} is no agent's directory: it is left alone", f"look at {path}")
            continue
        for file in path.iterdir():
            is_run = not file.is_symlink() and file.is_file() and parse_run_file(file.name) is not None
            if not (is_run or file.name.endswith(".torn")):
                yield Finding("warning", f"{file} is no run: it is left alone", f"look at {file}")


# The configuration


def config_keys(patient: Patient) -> Found:
    if patient.unusable is not None:
        yield Finding(
            "error",
            f"{patient.unusable}; the other checks take the defaults",
            "correct it; until then the daemon does not start",
        )
    for warning in patient.config.warnings:
        yield Finding("warning", warning, f"correct {patient.files.layout.config}; car-trio config show")


def policies(patient: Patient) -> Found:
    """A file of policies that cannot be used stops every plan, also of a daemon that is up."""
    from car_trio.nursery.policies import faults

    wrong, remarks = faults(patient.root / "policies")
    for remark in remarks:
        yield Finding("warning", remark, "correct it in the file; it is read again at once")
    if wrong is not None:
        yield Finding(
            "error",
            f"{wrong}: no plan is run and no tool registered",
            "correct the file or remove it; it is read again at once",
        )


def exposure(patient: Patient) -> Found:
    if not patient.config.is_loopback:
        host = patient.config.server.host
        yield Finding(
            "warning", f"listens on {host}: tokens travel in clear", "use a loopback host and a tunnel"
        )
    if not patient.config.server.auth:
        yield Finding(
            "warning", "authentication is off: any local process may do anything", "[server] auth = true"
        )


def durability(patient: Patient) -> Found:
    mode = patient.config.runs.durability
    if mode != "always":
        yield Finding(
            "warning", f"durability is {mode}: a power cut may lose acknowledged turns", "[runs] durability"
        )


def socket_path(patient: Patient) -> Found:
    path = patient.config.socket_path
    if path is not None and len(os.fsencode(path)) > 107:
        yield Finding(
            "error", f"{path} is too long for a Unix socket", "car-trio serve --socket off, or a shorter one"
        )
