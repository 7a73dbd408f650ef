"""The systemd user unit: its text, and what `systemctl --user` is asked.

The unit passes the state root only if one was chosen. A `--home` also moves the tokens, and clients that know of no
`CAR_HOME` look for them where they are without one. For the same reason there is no `StateDirectory`: what it means for
user units depends on the version of systemd, and the daemon makes its directories itself, 0700.

The hardening is what a user's own manager can always give, seccomp filters and limits. What needs a mount or a user
namespace (`ProtectSystem`, `PrivateTmp`) would keep the daemon from starting where these are forbidden.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import msgspec

from car_trio.cli.app import USAGE
from car_trio.cli.failures import FailedError
from car_trio.cli.keeping import Plan, Said, State, is_there, pairs, refuse_unprintable, tell

UNIT = "car-trio.service"
MARK = "# Written by car-trio service install"
HOME_KEY = "Home="
NO_BUS = ("connect to bus", "connect to user", "DBUS_SESSION_BUS_ADDRESS", "XDG_RUNTIME_DIR")
PROPERTIES = (
    "LoadState",
    "ActiveState",
    "SubState",
    "UnitFileState",
    "MainPID",
    "NRestarts",
    "Result",
    "ActiveEnterTimestamp",
    "NeedDaemonReload",
)
TEXT = f"""\
{MARK}, which writes it anew; systemctl --user edit car-trio adds to it.
[Unit]
Description=car-trio, the daemon between AI agents and their tools
StartLimitIntervalSec=120
StartLimitBurst=5

[Service]
Type=notify
NotifyAccess=main
ExecStart=%(command)s
%(environment)sSyslogIdentifier=car-trio
Restart=on-failure
RestartSec=2
# 2 is a setting, a port or a lock: trying again mends none of them.
RestartPreventExitStatus=2
# The first start on a large store may have to read all of it.
TimeoutStartSec=15min
TimeoutStopSec=%(stop_seconds)d
WatchdogSec=60
LimitNOFILE=524288
UMask=0077
NoNewPrivileges=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM

[Install]
WantedBy=default.target

# Not for systemd: where the runs are.
[X-Car-Trio]
{HOME_KEY}%(home)s
"""


def unit_text(plan: Plan) -> str:
    """The unit. The colon before the program means that no `$` in the words is a variable."""
    for path in (plan.python, plan.home or "", *plan.environment.values()):
        refuse_unprintable(path)
    if any(each in plan.python for each in "\"'\\"):
        raise FailedError(
            f"systemd starts no program with a quote or a backslash in its path, and '{plan.python}' has one; "
            "install car-trio in another directory",
            USAGE,
        )
    first, *rest = plan.words
    # Without a state root of its own the daemon must not find one that the session's environment happens to have.
    unset = "UnsetEnvironment=CAR_HOME\n" if plan.home is None else ""
    given = [f"Environment={quoted(f'{name}={value}')}\n" for name, value in plan.environment.items()]
    return TEXT % {
        "command": " ".join(map(quoted, [f":{first}", *rest])),
        "environment": unset + "".join(given),
        "stop_seconds": plan.stop_seconds,
        "home": msgspec.json.encode(plan.home).decode(),
    }


def quoted(word: str) -> str:
    """A word as systemd reads it back: in double quotes, no escape, no specifier."""
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%") + '"'


class Systemd:
    """The user's systemd. `directory` is where it looks for units of the user's own."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        config = Path(environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
        self._units = config / "systemd" / "user"
        self._environ = environ

    @property
    def path(self) -> Path:
        return self._units / UNIT

    def text(self, plan: Plan) -> str:
        return unit_text(plan)

    def home(self, text: str) -> str | None:
        said = [line.removeprefix(HOME_KEY) for line in text.splitlines() if line.startswith(HOME_KEY)]
        try:
            return msgspec.json.decode(said[-1] if said else "null", type=str | None)
        except msgspec.DecodeError:
            return None

    def complaints(self, text: str) -> list[str]:
        """Nothing where systemd-analyze is not installed; then the start will tell."""
        if not is_there("systemd-analyze"):
            return []
        with tempfile.TemporaryDirectory() as folder:
            unit = Path(folder) / UNIT
            unit.write_text(text)
            words = ("systemd-analyze", "verify", "--user", "--man=no", "--recursive-errors=no", str(unit))
            # It wants a runtime directory, and needs nothing in it.
            said = tell(*words, environment={"XDG_RUNTIME_DIR": folder, **self._environ})
        about_us = [line for line in said.err.splitlines() if UNIT in line]
        return about_us if said.code else []

    def begin(self, plan: Plan) -> None:
        self._ask("daemon-reload")
        self._ask("enable", "--now", UNIT)

    def end(self) -> None:
        said = tell("systemctl", "--user", "disable", "--now", UNIT)
        if said.code and not lacks_bus(said):
            raise FailedError(f"systemd did not stop the service: {said.why}")
        # Without a bus nothing of the user's runs; what enables it is a link.
        (self._units / "default.target.wants" / UNIT).unlink(missing_ok=True)

    def ended(self) -> None:
        for words in (("daemon-reload",), ("reset-failed", UNIT)):
            tell("systemctl", "--user", *words)

    def state(self) -> State:
        state = State(keeper="systemd", file=str(self.path), installed=self.path.exists())
        said = tell("systemctl", "--user", "show", UNIT, *(f"--property={name}" for name in PROPERTIES))
        if said.code:
            state.says = f"systemctl --user does not answer: {said.why}"
            return state
        found = pairs(said.out, "=")
        state.running = found.get("ActiveState") in {"active", "activating", "reloading", "deactivating"}
        state.enabled = found.get("UnitFileState", "").startswith("enabled")
        state.says = f"{found.get('ActiveState', '?')} ({found.get('SubState', '?')})"
        if found.get("Result") not in {None, "", "success"}:
            state.says += f", the last time: {found['Result']}"
        if found.get("LoadState") != "loaded":
            state.says += f", {found.get('LoadState', '?')}"
        state.pid = _number(found.get("MainPID"))
        state.restarts = _number(found.get("NRestarts")) or 0
        state.since = found.get("ActiveEnterTimestamp") or None
        state.stale = found.get("NeedDaemonReload") == "yes"
        return state

    def log_command(self, lines: int, *, follow: bool, log: Path) -> list[str]:
        words = ["journalctl", f"--user-unit={UNIT}", "--no-pager", "--output=short-iso", f"--lines={lines}"]
        return [*words, "--follow"] if follow else words

    def _ask(self, *words: str) -> None:
        said = tell("systemctl", "--user", *words)
        if lacks_bus(said):
            raise FailedError(
                f"{self.path} is written, but the user's systemd does not answer ({said.why}). Log in as this user "
                f"(sudo and su give no session), or have root call loginctl enable-linger {os.getuid()} and set "
                f"XDG_RUNTIME_DIR=/run/user/{os.getuid()}; then call car-trio service install again"
            )
        if said.code:
            raise FailedError(
                f"systemctl --user {' '.join(words)} failed: {said.why}. car-trio service logs says more"
            )


def lacks_bus(said: Said) -> bool:
    return said.code != 0 and any(words in said.err for words in NO_BUS)


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdecimal() and int(text) else None
