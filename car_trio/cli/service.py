"""`car-trio service`: the daemon as a service of the user's session, under systemd or launchd.

`install` says everything before it changes anything: it checks the configuration, that the interpreter finds this
package from anywhere, what the file will say and that the keeper understands it. A file that we did not write is never
replaced unasked. `uninstall` leaves the runs where they are. What the two platforms have in common is here; what each
wants to hear is in `systemd.py` and `launchd.py`.
"""

from __future__ import annotations

import difflib
import math
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated

import car_trio
from car_trio.cli.app import NO, OK, USAGE
from car_trio.cli.failures import FailedError
from car_trio.cli.flags import Flag, Home, Json
from car_trio.cli.keeping import Keeper, Plan, State, refuse_unprintable
from car_trio.cli.screen import say_json, styled
from car_trio.cli.status import document, gather, line
from car_trio.cli.status import show as show_status
from car_trio.config import PROTOCOL_VARIABLES, environment, load, state_root
from car_trio.store.layout import Layout
from car_trio.store.lock import lock_is_held
from car_trio.wire.text import escaped, one_line

PLATFORM = sys.platform
HOMELESS = "CAR_HOME"
KEPT = ("XDG_STATE_HOME",)
"""What decides where the runs are when no state root was chosen; a service does not inherit it from a shell."""
LOST = {*PROTOCOL_VARIABLES, "CAR_HANDLER_TIMEOUT", "CAR_AGENT_ID", "CAR_NO_APPROVALS"}
STOP_SECONDS = 30
"""What a stop may take beyond the time that running requests get."""


def install(
    *,
    dry_run: Annotated[bool, Flag("Only print the file.")] = False,
    force: Annotated[bool, Flag("Replace a file that car-trio did not write.")] = False,
    home: Home = None,
) -> int:
    """Start the daemon now and at each login, and again when it fails."""
    keeper, plan = keeper_of(PLATFORM), planned(home)
    text = keeper.text(plan)
    if dry_run:
        print(text, end="")
        return OK
    refuse_unfindable(plan.python)
    before = written(keeper)
    if before is not None and not is_ours(before) and not force:
        raise FailedError(
            f"{keeper.path} was not written by car-trio; look at it, and use --force to replace it"
        )
    wrong = keeper.complaints(text)
    if wrong:
        raise FailedError(f"{keeper.state().keeper} does not accept the file: {'; '.join(wrong)}")
    state = keeper.state()
    refuse_taken(plan.home, state)
    put(keeper, text, before)
    keeper.begin(plan)
    say_installed(keeper, plan, was_running=state.running and before not in {None, text})
    return OK


def uninstall(
    *, force: Annotated[bool, Flag("Also a file that car-trio did not write.")] = False, home: Home = None
) -> int:
    """Stop the daemon and do not start it any more. What it recorded stays."""
    keeper = keeper_of(PLATFORM)
    text = written(keeper)
    if text is None:
        print(f"not installed: there is no {one_line(str(keeper.path))}")
        return OK
    if not is_ours(text) and not force:
        raise FailedError(
            f"{keeper.path} was not written by car-trio; look at it, and use --force to remove it"
        )
    keeper.end()
    keeper.path.unlink(missing_ok=True)
    keeper.ended()
    print(f"removed {one_line(str(keeper.path))}")
    root = state_root(environment(), home or keeper.home(text))
    print(f"the runs and the configuration stay in {one_line(str(root))}")
    return OK


def status(*, home: Home = None, json: Json = False) -> int:
    """What the service manager says, and how the daemon is. 1 when it is not installed."""
    keeper = keeper_of(PLATFORM)
    state = keeper.state()
    if not json:
        show(state)  # first: what cannot be read of the store ends the rest
    found, code = gather(home or home_of(keeper))
    if json:
        say_json({"service": state, "status": document(found)})
    else:
        show_status(found)
    return code if state.installed else NO


def logs(
    *,
    lines: Annotated[int, Flag("How many of the last lines.")] = 100,
    follow: Annotated[bool, Flag("Go on with what is added, until interrupted.")] = False,
    home: Home = None,
) -> int:
    """What the daemon said. 1 when it is not installed."""
    if lines < 0:
        raise FailedError(f"--lines is {lines}: it cannot be negative", USAGE)
    keeper = keeper_of(PLATFORM)
    log = log_file(state_root(environment(), home or home_of(keeper)))
    words = keeper.log_command(lines, follow=follow, log=log)
    if written(keeper) is None:
        raise FailedError(
            f"the service is not installed: there is no {keeper.path}; car-trio service install does it, and what "
            f"an earlier one said is shown by {shlex.join(words)}"
        )
    try:
        done = subprocess.run(words, check=False)  # noqa: S603 - journalctl or tail, no shell
    except FileNotFoundError:
        raise FailedError(f"there is no {words[0]} here to show the log", USAGE) from None
    except KeyboardInterrupt:
        return OK
    return OK if done.returncode == 0 else NO


def keeper_of(platform: str) -> Keeper:
    """The program of a platform that keeps others running."""
    if platform == "darwin":
        from car_trio.cli.launchd import Launchd

        return Launchd()
    from car_trio.cli.systemd import Systemd

    return Systemd(environment())


def planned(home: str | None) -> Plan:
    """The daemon that this command line would start. Raises `ConfigError` when its configuration cannot be used."""
    environ = environment()
    root = state_root(environ, home)
    chosen = str(root) if home or environ.get(HOMELESS) else None
    refuse_unprintable(str(root))
    config = load(
        {"home": home}, {name: value for name, value in environ.items() if name not in lost(environ)}
    )
    return Plan(
        python=sys.executable,
        home=chosen,
        environment={} if chosen else {name: environ[name] for name in KEPT if environ.get(name)},
        stop_seconds=math.ceil(config.server.drain_seconds) + STOP_SECONDS,
        log=log_file(root),
    )


def log_file(root: Path) -> Path:
    """Where the daemon's log is when its keeper keeps none."""
    return root / "logs" / "daemon.log"


def lost(environ: Mapping[str, str]) -> list[str]:
    """The settings in the environment of this shell: the service will not have them."""
    return sorted(name for name in environ if name.startswith("CAR_TRIO_") or name in LOST)


def refuse_unfindable(python: str) -> None:
    """Raises FailedError when the package is only found from this directory or with this environment."""
    probe = "import car_trio; print(car_trio.__file__)"
    environ = {name: value for name, value in environment().items() if not name.startswith("PYTHON")}
    done = subprocess.run(  # noqa: S603 - this interpreter
        [python, "-P", "-c", probe], capture_output=True, text=True, check=False, cwd="/", env=environ
    )
    ours = car_trio.__file__ or ""
    if done.stdout.strip() != ours:
        raise FailedError(
            f"{python} does not find this car_trio ({ours}) from another directory: "
            f"{done.stdout.strip() or 'it finds none'}; install it there (pip install) and call its car-trio",
            USAGE,
        )


def refuse_taken(home: str | None, state: State) -> None:
    """Raises FailedError when a daemon that is not the service has the state root."""
    layout = Layout(state_root(environment(), home))
    if not state.running and lock_is_held(layout):
        found, _ = gather(home)
        pid = found.daemon.pid if found.daemon else None
        raise FailedError(f"process {pid or '?'} already serves {layout.root}; stop it, and install again")


def written(keeper: Keeper) -> str | None:
    """What the keeper's file says now; None when there is none."""
    try:
        return keeper.path.read_text(errors="replace")
    except FileNotFoundError:
        return None


def is_ours(text: str) -> bool:
    return "Written by car-trio service install" in text


def home_of(keeper: Keeper) -> str | None:
    """The state root of the installed service, None for the usual one."""
    text = written(keeper)
    return None if text is None else keeper.home(text)


def put(keeper: Keeper, text: str, before: str | None) -> None:
    """Puts the file in its place, unless it says the same already."""
    from car_trio.nursery.tokens import write_private

    where = one_line(str(keeper.path))
    if before == text:
        print(f"unchanged {where}")
        return
    for changed in differences(before or "", text) if before is not None else ():
        print(changed)
    keeper.path.parent.mkdir(parents=True, exist_ok=True)
    write_private(keeper.path, text.encode())
    print(f"{'wrote' if before is None else 'changed'} {where}")


def differences(before: str, after: str) -> Iterator[str]:
    """The lines that go and the lines that come."""
    for each in difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=0):
        if not each.startswith(("---", "+++", "@@")):
            yield styled(escaped(each), "red" if each.startswith("-") else "green")


def say_installed(keeper: Keeper, plan: Plan, *, was_running: bool) -> None:
    state = keeper.state()
    print(f"{state.keeper}: {one_line(state.says)}{f', pid {state.pid}' if state.pid else ''}")
    if was_running and state.keeper == "systemd":
        print(
            "the daemon that runs was started as before; systemctl --user restart car-trio takes the change"
        )
    ignored = lost(environment())
    if ignored:
        root = state_root(environment(), plan.home)
        print(
            f"set in this shell and not for the service: {', '.join(map(one_line, ignored))}; "
            f"what should hold for it goes into {one_line(str(root / 'config.toml'))}"
        )
    print("car-trio service status shows how it is, car-trio service logs what it says")
    if state.keeper == "systemd" and not Path(f"/var/lib/systemd/linger/{user()}").exists():
        print(f"it stops when you log out; loginctl enable-linger {user()} keeps it")


def user() -> str:
    """Who this is, by name where there is one."""
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def show(state: State) -> None:
    """The service in one or two lines above the daemon's."""
    if not state.installed:
        line("service", "not installed; car-trio service install does it", "yellow")
        return
    at_login = "starts at login" if state.enabled else "does not start at login"
    again = f", restarts: {state.restarts}" if state.restarts else ""
    since = f" since {state.since}" if state.since and state.running else ""
    line("service", f"{state.says}{since}, {at_login}{again}", "green" if state.running else "red")
    if state.stale:
        line("", "its file has changed: systemctl --user daemon-reload", "yellow")
