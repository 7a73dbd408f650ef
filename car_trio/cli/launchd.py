"""The launchd agent of macOS: its property list, and what `launchctl` is asked.

launchd knows no exit code after which it gives up, so a daemon that cannot start is started again every ten seconds;
`car-trio service logs` says why. It has no journal either: the daemon writes to a file under the state root.
"""

from __future__ import annotations

import os
import plistlib
from pathlib import Path
from typing import Any
from xml.parsers.expat import ExpatError

import msgspec

from car_trio.cli.failures import FailedError
from car_trio.cli.keeping import Plan, State, pairs, refuse_unprintable, tell

LABEL = "car-trio"
MARK = "<!-- Written by car-trio service install, which writes it anew. -->"


class Agent(msgspec.Struct):
    """The part of a property list that we read back."""

    ProgramArguments: list[str]


def property_list(plan: Plan) -> str:
    """The agent, as XML."""
    for path in (plan.python, plan.home or "", str(plan.log), *plan.environment.values()):
        refuse_unprintable(path)
    agent: dict[str, Any] = {
        "Label": LABEL,
        "ProgramArguments": plan.words,
        "RunAtLoad": True,
        "KeepAlive": {"SuccessfulExit": False},
        "ThrottleInterval": 10,
        "ExitTimeOut": plan.stop_seconds,
        "Umask": 0o077,
        "SoftResourceLimits": {"NumberOfFiles": 65536},
        "StandardOutPath": str(plan.log),
        "StandardErrorPath": str(plan.log),
    }
    if plan.environment:
        agent["EnvironmentVariables"] = dict(plan.environment)
    head, doctype, body = plistlib.dumps(agent).decode().partition("<plist ")
    return f"{head}{MARK}\n{doctype}{body}"


class Launchd:
    """The launchd of the user's session."""

    def __init__(self) -> None:
        self._domain = f"gui/{os.getuid()}"

    @property
    def path(self) -> Path:
        return Path.home() / "Library" / "LaunchAgents" / f"{LABEL}.plist"

    def text(self, plan: Plan) -> str:
        return property_list(plan)

    def home(self, text: str) -> str | None:
        try:
            words = msgspec.convert(plistlib.loads(text.encode()), Agent).ProgramArguments
            return words[words.index("--home") + 1]
        except (ValueError, IndexError, ExpatError, plistlib.InvalidFileException):
            return None

    def complaints(self, text: str) -> list[str]:
        return []

    def begin(self, plan: Plan) -> None:
        plan.log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # What is loaded has to go before another text of the same label is taken.
        tell("launchctl", "bootout", f"{self._domain}/{LABEL}")
        tell("launchctl", "enable", f"{self._domain}/{LABEL}")
        said = tell("launchctl", "bootstrap", self._domain, str(self.path))
        if said.code:
            raise FailedError(
                f"launchd did not take {self.path}: {said.why}; log in at the screen of this machine and call "
                "car-trio service install again"
            )

    def end(self) -> None:
        tell("launchctl", "bootout", f"{self._domain}/{LABEL}")

    def ended(self) -> None:
        """launchd forgets an agent when it is booted out."""

    def state(self) -> State:
        state = State(keeper="launchd", file=str(self.path), installed=self.path.exists())
        said = tell("launchctl", "print", f"{self._domain}/{LABEL}")
        if said.code:
            return state
        found = pairs(said.out, " = ")
        state.enabled = True
        state.says = found.get("state", "loaded")
        state.running = state.says == "running"
        state.pid = int(found["pid"]) if found.get("pid", "").isdecimal() else None
        return state

    def log_command(self, lines: int, *, follow: bool, log: Path) -> list[str]:
        return ["tail", "-n", str(lines), *(["-F"] if follow else []), str(log)]
