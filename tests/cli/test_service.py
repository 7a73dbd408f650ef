"""`service`: what is written where, what systemd and launchd are asked, and what is never touched.

The programs of the platform are scripts of the test's own, first on `PATH`; what they were asked is in a file. How
systemd reads a word back is asked of the real `systemd-analyze`, where there is one.
"""

from __future__ import annotations

import json
import os
import plistlib
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from car_trio.cli import service
from car_trio.cli.failures import FailedError
from car_trio.cli.keeping import Plan
from car_trio.cli.launchd import property_list
from car_trio.cli.systemd import quoted, unit_text
from car_trio.store.disk import Disk
from car_trio.store.layout import Layout
from car_trio.store.lock import hold_lock
from tests.cli.homes import Shell

ANALYZE = shutil.which("systemd-analyze")
needs_systemd = pytest.mark.skipif(ANALYZE is None, reason="systemd-analyze is not installed")
ACTIVE = (
    "LoadState=loaded\nActiveState=active\nSubState=running\nUnitFileState=enabled\nMainPID=41\nNRestarts=2\n"
    "Result=success\nActiveEnterTimestamp=Fri 2026-11-20 14:15:19 UTC\nNeedDaemonReload=no"
)
STOPPED = (
    "LoadState=loaded\nActiveState=inactive\nSubState=dead\nUnitFileState=disabled\nMainPID=0\nNRestarts=0"
)
NO_BUS = 'echo "Failed to connect to bus: No medium found" >&2; exit 1'
PLAN = Plan("/usr/bin/python3", None, {}, 33, Path("/var/car/logs/daemon.log"))


class Platform:
    """Programs that do what a test says and remember what they were asked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self._asked = folder / "asked"

    def program(self, name: str, script: str = ":") -> None:
        path = self.folder / name
        path.write_text(f'#!/bin/sh\necho "$(basename "$0") $*" >> "{self._asked}"\n{script}\n')
        path.chmod(0o755)

    def asked(self) -> list[str]:
        """What was asked since the last time."""
        lines = self._asked.read_text().splitlines() if self._asked.exists() else []
        self._asked.unlink(missing_ok=True)
        return lines

    def systemctl(self, state: str = ACTIVE, otherwise: str = ":") -> None:
        self.program("systemctl", f'case "$*" in *" show "*) echo "{state}";; *) {otherwise};; esac')


@pytest.fixture
def platform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Platform:
    made = Platform(tmp_path / "bin")
    made.systemctl()
    made.program("systemd-analyze")
    made.program("journalctl")
    monkeypatch.setenv("PATH", f"{made.folder}:{os.environ['PATH']}")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setattr(service, "PLATFORM", "linux")
    return made


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    return tmp_path / "config" / "systemd" / "user" / "car-trio.service"


@pytest.fixture
def plain(capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """`car-trio` without a `--home`."""
    from car_trio.cli.app import run

    def ask(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = run(list(words))
        said = capsys.readouterr()
        return code, said.out, said.err

    return ask


# install


def test_a_dry_run_prints_the_unit_and_asks_and_writes_nothing(
    shell: Shell, platform: Platform, unit: Path
) -> None:
    ran = shell("service", "install", "--dry-run")
    assert ran.code == 0
    assert "Type=notify" in ran.out
    assert f'ExecStart=":{sys.executable}" "-P" "-m" "car_trio" "serve" "--home" "{shell.home}"' in ran.out
    assert platform.asked() == []
    assert not unit.exists()


def test_install_writes_the_unit_starts_it_and_says_the_second_time_that_nothing_changed(
    shell: Shell, platform: Platform, unit: Path
) -> None:
    text = shell("service", "install", "--dry-run").out
    ran = shell("service", "install")
    assert (ran.code, ran.err) == (0, "")
    assert unit.read_text() == text
    assert f"wrote {unit}" in ran.out
    asked = platform.asked()
    assert [line for line in asked if " show " not in line][-2:] == [
        "systemctl --user daemon-reload",
        "systemctl --user enable --now car-trio.service",
    ]
    assert sum(line.startswith("systemd-analyze verify --user") for line in asked) == 1
    again = shell("service", "install")
    assert (again.code, f"unchanged {unit}" in again.out) == (0, True)
    assert "takes the change" not in again.out
    assert list(unit.parent.iterdir()) == [unit], "nothing half written is left beside it"


def test_a_unit_of_ours_is_replaced_and_what_differs_is_shown(
    shell: Shell, platform: Platform, unit: Path, tmp_path: Path
) -> None:
    shell("service", "install")
    shell.home = tmp_path / "other"
    ran = shell("service", "install")
    assert ran.code == 0
    assert any(line.startswith("-ExecStart") and "/home" in line for line in ran.out.splitlines())
    assert any(line.startswith("+ExecStart") and "/other" in line for line in ran.out.splitlines())
    assert "systemctl --user restart car-trio takes the change" in ran.out
    assert "/other" in unit.read_text()


@pytest.mark.parametrize("command", ["install", "uninstall"])
def test_a_unit_that_is_not_ours_is_left_alone_unless_forced(
    shell: Shell, platform: Platform, unit: Path, command: str
) -> None:
    unit.parent.mkdir(parents=True)
    unit.write_text("[Service]\nExecStart=/bin/true\n")
    ran = shell("service", command)
    assert ran.code == 1
    assert "was not written by car-trio" in ran.err
    assert unit.read_text().endswith("/bin/true\n")
    assert shell("service", command, "--force").code == 0
    assert not unit.exists() or "car_trio" in unit.read_text()


def test_a_masked_unit_stays_masked(shell: Shell, platform: Platform, unit: Path) -> None:
    unit.parent.mkdir(parents=True)
    unit.symlink_to("/dev/null")
    assert shell("service", "install").code == 1
    assert unit.is_symlink()


def test_what_systemd_does_not_accept_is_not_written(shell: Shell, platform: Platform, unit: Path) -> None:
    platform.program("systemd-analyze", 'echo "x/car-trio.service:3: Unknown key" >&2; exit 1')
    ran = shell("service", "install")
    assert ran.code == 1
    assert "Unknown key" in ran.err
    assert not unit.exists()
    platform.program("systemd-analyze", 'echo "another.service:3: Unknown key" >&2; exit 1')
    assert shell("service", "install").code == 0, "other units are not ours to judge"


def test_without_a_user_bus_the_unit_is_written_and_it_is_said_what_to_do(
    shell: Shell, platform: Platform, unit: Path
) -> None:
    platform.program("systemctl", NO_BUS)
    ran = shell("service", "install")
    assert ran.code == 1
    assert "enable-linger" in ran.err
    assert "No medium found" in ran.err
    assert len(ran.err.splitlines()) == 1
    assert unit.exists()


def test_a_daemon_that_does_not_start_is_a_no_that_names_the_log(shell: Shell, platform: Platform) -> None:
    failing = 'case "$*" in *enable*) echo "Job for car-trio.service failed." >&2; exit 1;; esac'
    platform.systemctl(STOPPED, failing)
    ran = shell("service", "install")
    assert ran.code == 1
    assert "Job for car-trio.service failed." in ran.err
    assert "car-trio service logs" in ran.err


def test_a_machine_without_systemd_is_told_what_to_do(
    shell: Shell, platform: Platform, monkeypatch: pytest.MonkeyPatch, unit: Path
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    ran = shell("service", "install")
    assert ran.code == 2
    assert "there is no systemctl here" in ran.err
    assert not unit.exists()


def test_a_configuration_that_cannot_be_used_is_not_installed(
    shell: Shell, platform: Platform, unit: Path
) -> None:
    shell.home.mkdir()
    (shell.home / "config.toml").write_text("[server]\nport = 'many'\n")
    assert shell("service", "install").code == 2
    assert not unit.exists()


def test_a_store_that_another_daemon_serves_is_not_taken(
    shell: Shell, platform: Platform, unit: Path
) -> None:
    platform.systemctl(STOPPED)
    Layout(shell.home).prepare(Disk())
    with hold_lock(Layout(shell.home)):
        ran = shell("service", "install")
    assert ran.code == 1
    assert "already serves" in ran.err
    assert not unit.exists()


def test_an_interpreter_that_finds_the_package_only_from_here_is_refused(
    shell: Shell, platform: Platform, monkeypatch: pytest.MonkeyPatch, unit: Path
) -> None:
    platform.program("python", "echo /elsewhere/car_trio/__init__.py")
    monkeypatch.setattr(sys, "executable", str(platform.folder / "python"))
    ran = shell("service", "install")
    assert ran.code == 2
    assert "/elsewhere/car_trio" in ran.err
    assert not unit.exists()


def test_nothing_secret_and_nothing_of_this_shell_but_the_place_of_the_runs_is_in_the_unit(
    plain: Callable[..., Any], platform: Platform, monkeypatch: pytest.MonkeyPatch, unit: Path
) -> None:
    monkeypatch.setenv("CAR_AUTH_TOKEN", "hush-hush")
    monkeypatch.setenv("CAR_TRIO_SERVER_PORT", "9999")
    monkeypatch.setenv("CAR_TOOL_TIMEOUT", "5")
    monkeypatch.setenv("XDG_STATE_HOME", "/var/my state 100%")
    code, out, _ = plain("service", "install")
    assert code == 0
    text = unit.read_text()
    assert "hush" not in text + out
    assert "9999" not in text
    assert "--home" not in text, "a state root would move the tokens away from where clients look"
    assert 'Environment="XDG_STATE_HOME=/var/my state 100%%"\n' in text
    assert "UnsetEnvironment=CAR_HOME\n" in text
    assert "set in this shell and not for the service: CAR_TOOL_TIMEOUT, CAR_TRIO_SERVER_PORT;" in out


def test_a_state_root_of_the_environment_is_written_down(
    plain: Callable[..., Any], platform: Platform, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, unit: Path
) -> None:
    monkeypatch.setenv("CAR_HOME", str(tmp_path / "there"))
    monkeypatch.setenv("XDG_STATE_HOME", "/var/state")
    assert plain("service", "install")[0] == 0
    assert f'"--home" "{tmp_path}/there"' in unit.read_text()
    assert "Environment=" not in unit.read_text()


# uninstall


def test_uninstall_stops_removes_the_unit_and_says_where_the_runs_stay(
    shell: Shell, plain: Callable[..., Any], platform: Platform, unit: Path
) -> None:
    assert plain("service", "uninstall") == (0, f"not installed: there is no {unit}\n", "")
    shell("service", "install")
    shell.home.mkdir()
    platform.asked()
    code, out, _ = plain("service", "uninstall")
    assert code == 0
    assert platform.asked() == [
        "systemctl --user disable --now car-trio.service",
        "systemctl --user daemon-reload",
        "systemctl --user reset-failed car-trio.service",
    ]
    assert not unit.exists()
    assert shell.home.exists()
    assert f"stay in {shell.home}" in out


def test_uninstall_works_without_a_bus_and_gives_up_when_systemd_does_not_stop_it(
    plain: Callable[..., Any], shell: Shell, platform: Platform, unit: Path
) -> None:
    shell("service", "install")
    wanted = unit.parent / "default.target.wants" / unit.name
    wanted.parent.mkdir()
    wanted.symlink_to(unit)
    platform.program("systemctl", "echo no >&2; exit 1")
    code, _, err = plain("service", "uninstall")
    assert (code, unit.exists(), "did not stop" in err) == (1, True, True)
    platform.program("systemctl", NO_BUS)
    assert plain("service", "uninstall")[0] == 0
    assert not unit.exists()
    assert not wanted.is_symlink()


# status and logs


def test_status_says_what_systemd_says_and_how_the_daemon_of_the_installed_root_is(
    plain: Callable[..., Any], shell: Shell, platform: Platform
) -> None:
    code, out, _ = plain("service", "status")
    assert (code, "not installed" in out) == (1, True)
    shell("service", "install")
    code, out, _ = plain("service", "status")
    assert code == 3
    assert "active (running) since Fri 2026-11-20 14:15:19 UTC, starts at login, restarts: 2" in out
    assert str(shell.home) in out
    document = json.loads(plain("service", "status", "--json")[1])
    assert (document["service"]["pid"], document["service"]["restarts"]) == (41, 2)
    assert document["status"]["home"] == str(shell.home)
    platform.systemctl(
        "LoadState=loaded\nActiveState=failed\nSubState=failed\nResult=watchdog\nNeedDaemonReload=yes"
    )
    out = plain("service", "status")[1]
    assert "failed (failed), the last time: watchdog" in out
    assert "daemon-reload" in out
    platform.systemctl("LoadState=masked\nActiveState=inactive\nSubState=dead")
    assert "inactive (dead), masked, does not start at login" in plain("service", "status")[1]
    platform.program("systemctl", NO_BUS)
    assert "does not answer" in plain("service", "status")[1]


def test_status_shows_the_service_also_when_the_configuration_cannot_be_used(
    plain: Callable[..., Any], shell: Shell, platform: Platform
) -> None:
    shell("service", "install")
    shell.home.mkdir()
    (shell.home / "config.toml").write_text("[server]\nport = 'many'\n")
    code, out, err = plain("service", "status")
    assert (code, "active (running)" in out, "port is 'many'" in out, err) == (2, True, True, "")


def test_logs_of_a_service_that_is_not_installed_are_a_no_that_says_how_to_install_it(
    shell: Shell, platform: Platform, unit: Path
) -> None:
    ran = shell("service", "logs")
    assert (ran.code, ran.out, platform.asked()) == (1, "", [])
    assert f"the service is not installed: there is no {unit}; car-trio service install does it" in ran.err
    assert "journalctl --user-unit=car-trio.service --no-pager" in ran.err


def test_logs_are_the_journals_of_the_unit(shell: Shell, platform: Platform) -> None:
    shell("service", "install")
    platform.asked()
    assert shell("service", "logs", "--lines", "7").code == 0
    assert shell("service", "logs", "--follow").code == 0
    assert platform.asked() == [
        "journalctl --user-unit=car-trio.service --no-pager --output=short-iso --lines=7",
        "journalctl --user-unit=car-trio.service --no-pager --output=short-iso --lines=100 --follow",
    ]
    assert shell("service", "logs", "--lines=-1").code == 2
    platform.program("journalctl", "exit 3")
    assert shell("service", "logs").code == 1


def test_logs_that_are_interrupted_have_done_their_work(
    shell: Shell, platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    shell("service", "install")
    monkeypatch.setattr(service.subprocess, "run", interrupted)
    assert shell("service", "logs", "--follow").code == 0


def test_a_machine_without_a_journal_is_a_usage_error(
    shell: Shell, platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    shell("service", "install")
    monkeypatch.setenv("PATH", "/nowhere")
    ran = shell("service", "logs")
    assert (ran.code, "no journalctl here" in ran.err) == (2, True)


# The texts

SPECIAL = st.sampled_from(
    ["%h", "%%", "%n", "100%", "$HOME", "${X}", "$$", ";", "#", "\\", "\\x41", '"', "'", " ", "-"]
)
TEXT = st.text(
    st.characters(min_codepoint=32, max_codepoint=0x2FFF, exclude_categories=["Cc", "Cs"]), max_size=3
)
WORDS = st.lists(SPECIAL | TEXT, min_size=1, max_size=6).map("".join)


def command_line_of(unit: Path, runtime: Path) -> list[str]:
    """The words that systemd reads from a unit, as its debugging output shows them: in quotes where they need it."""
    said = subprocess.run(
        ["systemd-analyze", "verify", "--user", "--man=no", str(unit)],
        capture_output=True,
        check=False,
        env={
            **os.environ,
            "LC_ALL": "C.UTF-8",
            "XDG_RUNTIME_DIR": str(runtime),
            "SYSTEMD_LOG_LEVEL": "debug",
            "SYSTEMD_LOG_TARGET": "null",
        },
    ).stdout.decode()
    (line,) = [line for line in said.split("\n") if line.strip().startswith("Command Line: ")]
    words = re.findall(r'"(?:\\.|[^"\\])*"|[^ ]+', line.strip(" \t").removeprefix("Command Line: "))
    return [re.sub(r"\\(.)", r"\1", word[1:-1]) if word.startswith('"') else word for word in words]


@needs_systemd
def test_systemd_reads_back_every_word_as_it_was(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("units")

    @settings(max_examples=40)
    @given(st.lists(WORDS, max_size=4))
    def check(words: list[str]) -> None:
        unit = folder / "words.service"
        line = " ".join(map(quoted, [":/bin/true", *words]))
        unit.write_text(f"[Service]\nExecStart={line}\n")
        assert command_line_of(unit, folder) == ["/bin/true", *words]

    check()


@needs_systemd
@pytest.mark.parametrize("home", [None, '/var/a b/100%/$HOME/${X}/"q"/it\'s/back\\slash/é/;/#'])
def test_systemd_accepts_the_unit_and_starts_exactly_the_plan(tmp_path: Path, home: str | None) -> None:
    odd = tmp_path / "in a $dir 100% %h {x}"
    odd.mkdir()
    python = odd / "python"
    python.write_text("#!/bin/sh\n")
    python.chmod(0o755)
    plan = PLAN._replace(python=str(python), home=home, environment={"XDG_STATE_HOME": '/a "b" 5%'})
    unit = tmp_path / "car-trio.service"
    unit.write_text(unit_text(plan))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--user", "--man=no", "--recursive-errors=no", str(unit)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "LC_ALL": "C.UTF-8", "XDG_RUNTIME_DIR": str(tmp_path)},
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert command_line_of(unit, tmp_path) == plan.words


@pytest.mark.parametrize("bad", ["/a\nb", "/a\x00b", "/a\x1bb", "/a\udcffb", "/a\x85b"])
@pytest.mark.parametrize("text", [unit_text, property_list])
def test_a_path_that_is_no_printable_text_is_refused(text: Callable[[Plan], str], bad: str) -> None:
    for plan in (PLAN._replace(python=bad), PLAN._replace(home=bad), PLAN._replace(environment={"X": bad})):
        with pytest.raises(FailedError) as refused:
            text(plan)
        assert refused.value.code == 2


@pytest.mark.parametrize("odd", ["/it's/python", '/"q"/python', "/back\\slash/python"])
def test_a_program_that_systemd_would_not_start_is_refused(odd: str) -> None:
    with pytest.raises(FailedError, match="another directory"):
        unit_text(PLAN._replace(python=odd))


def test_the_property_list_says_the_same_plan() -> None:
    plan = PLAN._replace(home="/Users/a b/<car>&", environment={"XDG_STATE_HOME": "/x"})
    agent = plistlib.loads(property_list(plan).encode())
    assert agent["ProgramArguments"] == plan.words
    assert agent["KeepAlive"] == {"SuccessfulExit": False}
    assert (agent["Umask"], agent["ExitTimeOut"]) == (0o077, 33)
    assert agent["StandardErrorPath"] == str(plan.log)
    assert agent["EnvironmentVariables"] == {"XDG_STATE_HOME": "/x"}
    assert service.is_ours(property_list(plan))


# launchd


@pytest.fixture
def mac(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> Platform:
    monkeypatch.setattr(service, "PLATFORM", "darwin")
    platform.program(
        "launchctl",
        'case "$*" in print*) printf "state = running\\n\\tpid = 77\\n";; bootout*) exit 3;; esac',
    )
    platform.program("tail")
    return platform


def test_launchd_is_asked_to_take_show_and_drop_the_agent(
    plain: Callable[..., Any], shell: Shell, mac: Platform, tmp_path: Path
) -> None:
    agent = tmp_path / "Library" / "LaunchAgents" / "car-trio.plist"
    me = f"gui/{os.getuid()}"
    assert shell("service", "install").code == 0
    assert plistlib.loads(agent.read_bytes())["Label"] == "car-trio"
    assert [line for line in mac.asked() if " print " not in line] == [
        f"launchctl bootout {me}/car-trio",
        f"launchctl enable {me}/car-trio",
        f"launchctl bootstrap {me} {agent}",
    ]
    assert (shell.home / "logs").is_dir()
    service_state = json.loads(plain("service", "status", "--json")[1])["service"]
    assert (service_state["keeper"], service_state["running"], service_state["pid"]) == ("launchd", True, 77)
    mac.asked()
    assert plain("service", "logs", "--follow")[0] == 0
    assert mac.asked() == [f"tail -n 100 -F {shell.home}/logs/daemon.log"]
    code, out, _ = plain("service", "uninstall")
    assert (code, agent.exists(), str(shell.home) in out) == (0, False, True)
    assert mac.asked() == [f"launchctl bootout {me}/car-trio"]


def test_an_agent_that_launchd_does_not_take_is_a_no(shell: Shell, mac: Platform) -> None:
    mac.program("launchctl", "echo 'Bootstrap failed: 5' >&2; exit 5")
    ran = shell("service", "install")
    assert (ran.code, "Bootstrap failed: 5" in ran.err) == (1, True)
    assert "not loaded" in shell("service", "status").out


@pytest.mark.parametrize("text", ["", "not a list", "<plist></plist>", "<plist><dict/></plist>"])
def test_a_list_that_cannot_be_read_names_no_state_root(mac: Platform, text: str) -> None:
    assert service.keeper_of("darwin").home(text) is None


@pytest.mark.parametrize("text", ["", "Home=nonsense", "Home=null", "Home=3"])
def test_a_unit_that_names_no_state_root_means_the_usual_one(platform: Platform, text: str) -> None:
    assert service.keeper_of("linux").home(text) is None
