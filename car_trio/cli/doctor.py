"""`car-trio doctor`: every check, what each found, and with `--fix` the repairs that cannot make anything worse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import msgspec

import car_trio
from car_trio.cli import checks, store_checks
from car_trio.cli.app import NO, OK
from car_trio.cli.checks import Finding, Found, Patient
from car_trio.cli.files import Files
from car_trio.cli.flags import Flag, Home, Json
from car_trio.cli.screen import counted, say_json, styled
from car_trio.config import environment, load_or_defaults
from car_trio.wire.text import one_line

CHECKS: list[Callable[[Patient], Found]] = [
    checks.python,
    checks.sqlite,
    checks.clock,
    checks.descriptors,
    checks.free_space,
    checks.root_exists,
    checks.owners,
    checks.root_writable,
    checks.private_directories,
    checks.private_files,
    checks.links,
    checks.strangers,
    checks.config_keys,
    checks.policies,
    checks.exposure,
    checks.durability,
    checks.socket_path,
    store_checks.lock,
    store_checks.daemon_json,
    store_checks.stale_socket,
    store_checks.stale_tokens,
    store_checks.port,
    store_checks.page,
    store_checks.dead_daemon,
    store_checks.catalog,
    store_checks.catalog_agrees,
    store_checks.damage,
    store_checks.leftovers,
    store_checks.torn_files,
]
TONES = {"ok": "green", "warning": "yellow", "error": "red"}


class Reported(msgspec.Struct):
    """A finding as `--json` prints it."""

    check: str
    level: str
    what: str
    next: str
    fixed: bool


def doctor(
    *,
    fix: Annotated[bool, Flag("Mend what is provably safe to mend.")] = False,
    home: Home = None,
    json: Json = False,
) -> int:
    """Look for whatever could be wrong; exit code 1 when something is. Works with the daemon down."""
    patient = Patient.of(Files(home), *load_or_defaults({"home": home}, environment()))
    reported = [
        report(check.__name__, finding, fix=fix)
        for check in CHECKS
        for finding in findings(check.__name__, check(patient))
    ]
    reported += [report("daemon", finding, fix=fix) for finding in daemon(patient, home)]
    if json:
        say_json({"checks": len(CHECKS) + 1, "findings": reported})
    else:
        show(reported)
    return NO if any(each.level == "error" and not each.fixed for each in reported) else OK


def findings(name: str, found: Found) -> list[Finding]:
    """What a check found; that it could not look is a finding as well, and so is that there was nothing to find."""
    gathered: list[Finding] = []
    try:
        gathered.extend(found)
    except OSError as error:
        gathered.append(Finding("error", f"cannot look: {error}", "mend its permissions"))
    return gathered or [Finding("ok", f"{name.replace('_', ' ')}: nothing to complain of")]


def daemon(patient: Patient, home: str | None) -> list[Finding]:
    """Whether the daemon answers, and whether it is this version."""
    if not patient.beside:
        return [Finding("ok", "the daemon is down")]
    from car_trio.cli.calling import ask
    from car_trio.cli.failures import FailedError
    from car_trio.client import CarError, DaemonUnreachable, Disconnected

    try:
        health = ask(home, "server.health")
    except (DaemonUnreachable, Disconnected) as error:
        return [Finding("error", f"the daemon does not answer: {error}", "restart it")]
    except (CarError, FailedError) as error:
        why, _, then = str(error).rpartition("; ")  # a refusal ends with what to do
        return [Finding("error", f"the daemon cannot be asked: {why}", then)]
    found = [Finding("ok", f"the daemon answers, version {health['version']}")]
    if health["version"] != car_trio.__version__:
        found.append(Finding("warning", f"this is version {car_trio.__version__}", "restart the daemon"))
    if health["store"] != "ok":
        found.append(
            Finding("error", f"the store is {health['store']}: runs are not written", "look at its log")
        )
    return found


def report(name: str, finding: Finding, *, fix: bool) -> Reported:
    fixed = False
    if fix and finding.mend is not None:
        finding.mend()
        fixed = True
    return Reported(name, finding.level, finding.what, finding.next, fixed)


def show(reported: list[Reported]) -> None:
    for each in reported:
        after = "  (mended)" if each.fixed else f"\n{'':10}next: {each.next}" if each.next else ""
        print(
            f"{styled(f'{each.level:8}', TONES[each.level])}  {one_line(each.what)}{one_line_keeping(after)}"
        )
    errors = sum(each.level == "error" and not each.fixed for each in reported)
    warnings = sum(each.level == "warning" and not each.fixed for each in reported)
    print(f"\n{len(CHECKS) + 1} checks: {counted(errors, 'error')}, {counted(warnings, 'warning')}")


def one_line_keeping(after: str) -> str:
    """The second line of a finding."""
    return "\n".join(one_line(part) for part in after.split("\n"))
