"""What `car-trio doctor` looks at in what daemons leave and write: locks, sockets, tokens, the catalog, the runs. The
rules of `checks.py` hold."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path
from typing import Literal

from car_trio.cli.checks import Finding, Found, Patient, ok, tokens
from car_trio.cli.status import DaemonFile
from car_trio.cli.verifying import check as verified
from car_trio.config import read_regular
from car_trio.store.catalog_reader import open_reader
from car_trio.store.log_files import lines
from car_trio.store.retention import removed_by
from car_trio.store.survey import continuations_alone, survey
from car_trio.wire.runs import RunRef

CHECKED_RUNS = 1000
PAGE_HOST = "127.0.0.1"


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


# The daemon


def lock(patient: Patient) -> Found:
    pid = patient.daemon.pid if patient.daemon else None
    yield ok(f"process {pid} holds the store" if patient.beside else "nobody holds the store")


def daemon_json(patient: Patient) -> Found:
    path = patient.files.layout.daemon_json
    if not path.exists():
        return
    if patient.daemon is None:
        level: Literal["warning", "error"] = "error" if patient.beside else "warning"
        yield Finding(
            level, f"{path} cannot be read", "restart the daemon", None if patient.beside else path.unlink
        )
    elif not patient.beside:
        yield Finding(
            "warning", f"{path} is left of a daemon that has gone", "car-trio doctor --fix", path.unlink
        )


def stale_socket(patient: Patient) -> Found:
    path = patient.config.socket_path
    if path is None or not path.exists():
        return
    if not stat.S_ISSOCK(path.lstat().st_mode):
        yield Finding("error", f"{path} is not a socket", f"move {path} away")
    elif not patient.beside and not answers(path):
        yield Finding(
            "warning", f"{path} is left of a daemon that has gone", "car-trio doctor --fix", path.unlink
        )


def answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


def stale_tokens(patient: Patient) -> Found:
    """Token files outlive a daemon that was killed. They open nothing: the next start mints new ones."""
    for path in tokens(patient):
        # Only under this root: another daemon may have put its own where all roots look.
        ours = path.is_relative_to(patient.root)
        if path.is_file() and not patient.beside and ours:
            yield Finding(
                "warning", f"{path} is left of a daemon that has gone", "car-trio doctor --fix", path.unlink
            )
        elif patient.beside and patient.config.server.auth and (why := unreadable(path)):
            yield Finding(
                "error",
                f"{path} cannot be read: {why}: clients cannot authenticate",
                "make it readable for you; if it is not there, or is no file, move it away and restart the daemon",
            )


def unreadable(path: Path) -> str | None:
    """Why the file cannot be read; None when it can."""
    try:
        read_regular(path)
    except OSError as error:
        return error.strerror or str(error)
    return None


def port(patient: Patient) -> Found:
    if patient.beside or patient.config.server.port == 0:
        return
    host, number = patient.config.server.host, patient.config.server.port
    why = refused(host, number)
    if why is None:
        yield ok(f"port {number} is free")
        return
    yield Finding(
        "error",
        f"port {number} of {host} cannot be taken: {why}",
        "stop what uses it, or car-trio serve --port N",
    )


def refused(host: str, number: int) -> str | None:
    """Why a daemon could not listen there; None when it could. Asked by binding, as the daemon binds: a port that
    nobody listens on may still be the near end of somebody's connection."""
    try:
        for family, kind, _, _, address in socket.getaddrinfo(host, number, type=socket.SOCK_STREAM):
            with socket.socket(family, kind) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
    except OSError as error:
        return error.strerror or str(error)
    return None


def page(patient: Patient) -> Found:
    """Whether the page is served, or could be, where somebody wants it."""
    config = patient.config
    if patient.beside:
        yield from served_page(patient.daemon or DaemonFile())
    elif config.web.enabled and config.web_port and (why := refused(PAGE_HOST, config.web_port)):
        yield Finding(
            "warning",
            f"the page's port {config.web_port} cannot be taken ({why}): the daemon would serve without the page",
            "stop what uses it, or car-trio serve --web-port N",
        )


def served_page(daemon: DaemonFile) -> Found:
    """What the daemon says of its page: its flags decide, and only it knows them."""
    if daemon.web_url is not None:
        yield ok(f"the page is at {daemon.web_url}")
    elif daemon.no_page is not None:
        yield Finding("warning", daemon.no_page, "car-trio serve --web-port N takes another port")
    else:
        yield ok("the daemon serves no page, as it was told")


def dead_daemon(patient: Patient) -> Found:
    pid = patient.daemon.pid if patient.daemon else None
    if patient.beside and pid is not None and not is_alive(pid):
        yield Finding(
            "warning", f"the store is held, but not by process {pid} of daemon.json", "car-trio status"
        )


# The runs


def catalog(patient: Patient) -> Found:
    layout = patient.files.layout
    reader = open_reader(layout, patient.files.disk)
    if reader is not None:
        reader.close()
        yield ok("the catalog can be used")
    elif layout.catalog.exists() and any(survey(patient.files.disk, layout)):
        yield Finding(
            "warning", "the catalog is not trusted: run files are read instead", "car-trio runs reindex"
        )


def catalog_agrees(patient: Patient) -> Found:
    """Older than the files, where no daemon is writing: sizes and times say so without reading a run."""
    if patient.beside:
        return
    reader = open_reader(patient.files.layout, patient.files.disk)
    if reader is None:
        return
    try:
        rows = {RunRef(row.agent_id, row.run_id): (row.bytes, row.mtime_ns) for row in reader.search().rows}
    finally:
        reader.close()
    differing = sum(
        rows.pop(found.ref, None) != (found.bytes, found.mtime_ns)
        for found in survey(patient.files.disk, patient.files.layout)
    ) + len(rows)
    if differing:
        yield Finding(
            "warning", f"the catalog is older than the files of {differing} runs", "car-trio runs reindex"
        )


def damage(patient: Patient) -> Found:
    """The newest runs, line by line; `runs verify` reads all."""
    refs = sorted(survey(patient.files.disk, patient.files.layout), key=lambda found: -found.mtime_ns)
    checked = verified(patient.files, [found.ref for found in refs[:CHECKED_RUNS]])
    for fault in checked.faults:
        yield Finding(
            "error",
            fault.told,
            f"car-trio runs show {fault.run_id}",
        )
    if checked.torn_bytes and not patient.beside:
        yield Finding(
            "warning",
            f"{checked.torn_bytes} torn bytes at the ends of runs: left by a crash",
            "car-trio serve moves them aside at its start",
        )
    if checked.open and not patient.beside:
        yield Finding(
            "warning", f"{checked.open} runs have no end", "car-trio serve ends them as orphaned at its start"
        )
    yield ok(f"{checked.records} records of the newest {checked.runs} runs read")


def leftovers(patient: Patient) -> Found:
    """What a removal left that was interrupted: of no run any more, where the log of removals says so."""
    disk, layout = patient.files.disk, patient.files.layout
    alone = list(continuations_alone(disk, layout))
    removed = removed_by(lines(disk, layout, layout.deleted_runs.name)) if alone else set[RunRef]()
    for ref, path in alone:
        if ref not in removed:
            yield Finding(
                "error", f"{path} continues run {ref.run_id}, whose first file is missing", "put that back"
            )
        elif patient.beside:
            yield Finding(
                "warning", f"{path} is left of a removed run", "stop the daemon, then car-trio doctor --fix"
            )
        else:
            yield Finding("warning", f"{path} is left of a removed run", "car-trio doctor --fix", path.unlink)


def torn_files(patient: Patient) -> Found:
    runs = patient.files.layout.runs
    count = sum(1 for _ in runs.glob("*/*.torn"))
    if count:
        yield Finding(
            "warning", f"{count} torn tails were moved aside", f"look at {runs}/*/*.torn; they may be removed"
        )
