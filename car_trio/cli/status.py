"""`car-trio status`: the daemon and the store on one screen. What the files say is shown with the daemon down too."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import msgspec

from car_trio.cli.app import OK, UNREACHABLE, USAGE
from car_trio.cli.files import Files
from car_trio.cli.flags import Home, Json
from car_trio.cli.screen import counted, human_size, lasting, moment, say_json, styled
from car_trio.config import Runs, environment, load_or_defaults, read_regular
from car_trio.store.lock import holder
from car_trio.store.retention import expired
from car_trio.store.survey import survey
from car_trio.wire.runs import SearchRuns, rfc3339
from car_trio.wire.text import one_line


class DaemonFile(msgspec.Struct):
    """`run/daemon.json`, as far as it is shown."""

    pid: int | None = None
    url: str | None = None
    socket: str | None = None
    web_url: str | None = None
    no_page: str | None = None
    started_at: str | None = None


class Status(msgspec.Struct, omit_defaults=True):
    """What `--json` prints. `daemon` is null when none runs; `health` is its answer to `server.health`."""

    home: str
    running: bool
    daemon: DaemonFile | None
    health: dict[str, Any] | None
    unreachable: str | None
    runs: int
    open_runs: int
    bytes: int
    free_bytes: int | None
    max_per_agent: int
    max_age_days: float
    keep_free_bytes: int
    durability: str
    next_to_go: str | None
    next_to_go_at: str | None
    due: int
    """Runs that the next sweep removes; then `next_to_go` is the first of them."""
    holder: int | None
    """The process that holds the store, daemon or not."""
    unusable: str | None
    """What is wrong with the configuration; then the limits are the defaults."""


def status(*, home: Home = None, json: Json = False) -> int:
    """How the daemon and its store are; exit code 3 when the daemon is down."""
    found, code = gather(home)
    if json:
        say_json(document(found))
    else:
        show(found)
    return code


def gather(home: str | None) -> tuple[Status, int]:
    """What the files and the daemon say, and the exit code of that."""
    files = Files(home)
    config, unusable = load_or_defaults({"home": home}, environment())
    busy = holder(files.layout)
    health, unreachable = (None, None) if busy is None else answer(home)
    found = look(files, kept(config.runs, health or {}))
    found.running, found.holder = busy is not None, None if busy is None else busy.pid
    found.health, found.unreachable = health, unreachable
    if unusable is not None:
        found.unusable = str(unusable)
        return found, USAGE
    return found, OK if health is not None else UNREACHABLE


def answer(home: str | None) -> tuple[dict[str, Any] | None, str | None]:
    """What the daemon says of itself, or why it says nothing."""
    from car_trio.cli.calling import ask
    from car_trio.client import CarError

    try:
        return ask(home, "server.health"), None
    except CarError as error:
        return None, str(error)


def kept(ours: Runs, health: dict[str, Any]) -> Runs:
    """The limits that hold: a daemon's own, which its flags and its shell chose; else what it would be started with."""
    own = {"durability": health["durability"], **health.get("kept", {})} if health else {}
    return msgspec.convert(msgspec.structs.asdict(ours) | own, Runs)


def document(found: Status) -> dict[str, Any]:
    """The status with all of its fields, also those that say nothing."""
    fields: dict[str, Any] = msgspec.structs.asdict(found)
    return fields


def look(files: Files, limits: Runs) -> Status:
    """All that the files say."""
    sizes = [found.bytes for found in survey(files.disk, files.layout)]
    open_runs = sum(1 for _ in files.search(SearchRuns(status="in_progress", limit=500)))
    going = next_to_go(files, limits, datetime.now(UTC))
    return Status(
        home=str(files.root),
        running=False,
        daemon=daemon_file(files),
        health=None,
        unreachable=None,
        runs=len(sizes),
        open_runs=open_runs,
        bytes=sum(sizes),
        free_bytes=files.disk.free_bytes(files.root) if files.root.exists() else None,
        max_per_agent=limits.max_per_agent,
        max_age_days=limits.max_age_days,
        keep_free_bytes=limits.keep_free_bytes,
        durability=limits.durability,
        next_to_go=None if going is None else going.run_id,
        next_to_go_at=None if going is None else going.at,
        due=0 if going is None else going.due,
        holder=None,
        unusable=None,
    )


class Going(NamedTuple):
    """The run that goes next, when, and how many are due already."""

    run_id: str
    at: str | None
    due: int


def next_to_go(files: Files, limits: Runs, now: datetime) -> Going | None:
    """By the rules of the sweep, the stricter limit wins; what is due goes at the next one, within the hour."""
    candidates = files.index.retention_candidates(now, limits.max_per_agent, limits.max_age_days)
    due = expired(candidates, now, limits.max_per_agent, limits.max_age_days)
    if due:
        return Going(due[0].row.run_id, rfc3339(now), len(due))
    if limits.max_age_days <= 0:
        return None
    ended = (row for row in files.search(SearchRuns(limit=500)) if row.ended_at is not None)
    oldest = min(ended, key=lambda row: row.ended_at or "", default=None)
    if oldest is None:
        return None
    return Going(oldest.run_id, _expiry(oldest.ended_at, limits.max_age_days), 0)


def _expiry(ended_at: str | None, days: float) -> str | None:
    then = moment(ended_at)
    try:
        return None if then is None else rfc3339(then + timedelta(days=days))
    except OverflowError:
        return None


def daemon_file(files: Files) -> DaemonFile | None:
    """What the daemon wrote about itself; None when it is not there or cannot be read."""
    try:
        return msgspec.json.decode(read_regular(files.layout.daemon_json), type=DaemonFile)
    except (OSError, msgspec.DecodeError):
        return None


def show(found: Status) -> None:
    daemon, health = found.daemon or DaemonFile(), found.health
    line("home", found.home)
    if health is not None:
        line("daemon", f"up, version {health['version']}, pid {daemon.pid}, {daemon.url}", "green")
        line("page", "not served" if daemon.web_url is None else f"{daemon.web_url}, opened by car-trio ui")
        line("uptime", lasting(health["uptime_secs"]))
        if "connections" in health:
            others = max(0, health["connections"] - 1)  # without this command's own
            line("busy with", f"{counted(others, 'connection')}, {counted(health['open_runs'], 'open run')}")
        line("store", f"{health['store']}, durability {health['durability']}")
        line("auth", "on" if health["auth_enabled"] else "off: every local connection may do everything")
    elif found.running and daemon.pid is not None and daemon.pid == found.holder:
        line("daemon", f"the store is in use by process {daemon.pid}, which does not answer", "red")
        line("", found.unreachable or "")
    elif found.running:
        line(
            "daemon",
            f"process {found.holder or '(unknown)'} works with the store: another command, or a daemon that starts",
            "yellow",
        )
    else:
        line("daemon", "down; start it with car-trio serve", "yellow")
    free = "" if found.free_bytes is None else f", {human_size(found.free_bytes)} free"
    line("runs", f"{found.runs}, {found.open_runs} open, {human_size(found.bytes)} on disk{free}")
    per_agent = found.max_per_agent if found.max_per_agent > 0 else "any number"
    age = f"{found.max_age_days:g} days" if found.max_age_days > 0 else "for ever"
    line("kept", f"{per_agent} per agent, {age}, {human_size(found.keep_free_bytes)} stay free")
    if found.due:
        more = f" and {found.due - 1} more" if found.due > 1 else ""
        line("next to go", f"{found.next_to_go}{more}, within the hour while a daemon runs")
    elif found.next_to_go_at is not None:
        line("next to go", f"{found.next_to_go} at {found.next_to_go_at}")
    if found.unusable is not None:
        note = "the limits above are the defaults" if health is None else "the daemon would not start again"
        line("config", f"{found.unusable}; {note}", "red")


def line(name: str, text: str, style: str | None = None) -> None:
    print(f"{styled(f'{name:10}', 'dim')}  {styled(one_line(text), style)}")
