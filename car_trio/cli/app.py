"""The command line: which commands there are. What a command needs is imported inside it, so that help is instant.

Exit codes: 0 ok, 1 the answer is no, 2 usage or configuration.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from cyclopts import App, CycloptsError, Parameter

import car_trio
from car_trio.config import ConfigError

USAGE = 2

app = App(
    name="car-trio",
    version=car_trio.__version__,
    help="The local daemon between AI agents and their tools, and the record of what they did.",
    help_format="plaintext",
)

Switch = Annotated[bool, Parameter(negative=(), show_default=False)]


@Parameter(name="*")
@dataclass(kw_only=True)
class Flags:
    """The flags of `serve`; what is not given comes from the environment, config.toml or the defaults."""

    host: str | None = None
    """Address to listen on; default 127.0.0.1. Any other than loopback needs --allow-remote."""
    port: int | None = None
    """TCP port; default 9100, 0 takes any free one."""
    home: str | None = None
    """State root: runs, configuration, locks. Default: CAR_HOME, else the platform's state directory."""
    socket: str | None = None
    """Path of the Unix socket, or "off"; default run/car.sock under the state root."""
    auth_token_file: str | None = None
    """Where to write the daemon's token; default: where the clients look for it."""
    no_auth: Switch = False
    """Let every local connection do everything."""
    no_approvals: Switch = False
    """Do not ask a host before gated methods run."""
    allow_remote: Switch = False
    """Permit a --host that is not loopback; tokens travel in clear."""
    durability: Literal["always", "interval", "os"] | None = None
    """What an acknowledgement means: synced (always), or written (interval, os). Default always."""
    log_level: Literal["debug", "info", "warning", "error"] | None = None
    """How much to say on standard error; default info."""
    log_format: Literal["text", "json"] | None = None
    """Lines for people (text) or for programs (json)."""


@app.default
@app.command
def serve(flags: Flags | None = None) -> int:
    """Run the daemon until SIGTERM or SIGINT; a second signal ends it at once."""
    from car_trio.cli.serve import run_daemon

    given = flags or Flags()
    return run_daemon(
        {
            "home": given.home,
            "auth_token_file": given.auth_token_file,
            "server.host": given.host,
            "server.port": given.port,
            "server.socket": given.socket,
            "server.auth": False if given.no_auth else None,
            "server.allow_remote": True if given.allow_remote else None,
            "approvals.enabled": False if given.no_approvals else None,
            "runs.durability": given.durability,
            "log.level": given.log_level,
            "log.format": given.log_format,
        }
    )


@app.command
def demo() -> int:
    """Play a whole run against a daemon of its own, on a throw-away home, and show what happened."""
    from car_trio.cli.demo import play

    return play()


def run(arguments: Sequence[str]) -> int:
    """Runs a command; returns the exit code. A user's mistake is one line on standard error, never a traceback."""
    try:
        result: Any = app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
    except CycloptsError as error:
        said = " ".join(str(error).split())
        print(f"car-trio: {said} (car-trio --help lists what there is)", file=sys.stderr)
        return USAGE
    except ConfigError as error:
        print(f"car-trio: {error}", file=sys.stderr)
        return USAGE
    return int(result or 0)
