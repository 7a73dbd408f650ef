"""What a start refuses, what a stop leaves behind (protocol `wire.md` sections 1, 3 and 6).

A refused start is one line that says what cannot be done, with which object, and what to do next; it ends with 2 and
has changed nothing that the cause does not name.
"""

from __future__ import annotations

import json
import re
import signal
import socket
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed

from tests.process.daemon_process import (
    PATIENCE,
    DaemonProcess,
    clean_environment,
    command,
    lines_on_disk,
    refused,
    start_run,
    until,
)
from tests.second_client import Refused, SecondClient

MakeDaemon = Callable[..., DaemonProcess]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


OWN_BUSINESS = ("daemon.lock", "catalog.sqlite", "catalog.sqlite-wal", "catalog.sqlite-shm")
"""Files whose content changes by itself: the lock is taken and given back, the catalog follows the runs."""


def tree(root: Path) -> dict[str, tuple[int, int, bytes]]:
    """Everything below, with what a change would change."""
    found = {}
    for path in root.rglob("*"):
        status = path.lstat()
        is_told = stat.S_ISREG(status.st_mode) and path.name not in OWN_BUSINESS
        content = path.read_bytes() if is_told else b""
        found[str(path.relative_to(root))] = (status.st_mode, status.st_ino, content)
    return found


# What a start refuses


@pytest.mark.parametrize(
    ("flags", "named", "advice"),
    [
        (["--host", "0.0.0.0"], "0.0.0.0", "--allow-remote"),
        (["--host", "0.0.0.0", "--allow-remote", "--no-auth"], "--no-auth with --host 0.0.0.0", "loopback"),
        (["--host", "::"], "--host ::", "--allow-remote"),
        (["--port", "65536"], "65536", "0 to 65535"),
        (["--port", "-1"], "-1", "negative"),
        (["--port", "http"], "http", "--help"),
        (["--durability", "never"], "never", "always"),
        (["--colour"], "--colour", "--help"),
        (["--no-such-flag", "x"], "--no-such-flag", "--help"),
        (["an-argument"], "an-argument", "--help"),
    ],
)
def test_a_flag_that_cannot_be_used_is_named_and_nothing_is_made(
    home: Path, flags: list[str], named: str, advice: str
) -> None:
    said = refused("serve", "--home", str(home), *flags)
    assert named in said
    assert advice in said
    assert not home.exists()


def test_an_unknown_command_is_named() -> None:
    assert "srve" in refused("srve")


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ("[server\nport = 1\n", "is not TOML"),
        ("[server]\nport = 'high'\n", "[server] port is 'high'"),
        ("[server]\nport = true\n", "[server] port is True"),
        ("[server]\ndrain_seconds = -1\n", "[server] drain_seconds is -1"),
        ("[server]\ndrain_seconds = nan\n", "[server] drain_seconds is nan"),
        ("[server]\nmax_in_flight = 0\n", "[server] max_in_flight is 0"),
        ("[server]\nauth = 'no'\n", "[server] auth is 'no': expected true or false"),
        ("[server]\nallowed_hosts = 'box'\n", "[server] allowed_hosts is 'box'"),
        ("[approvals]\nmethods = 3\n", "[approvals] methods is 3"),
        ("[log]\nlevel = 'loud'\n", "[log] level is 'loud': expected one of debug, info, warning, error"),
        ("[permissions]\ntier = 1\n", "tier is 1: expected one of read_only, sandbox_edit, full_access"),
        ("[server]\nhost = '0.0.0.0'\n", "--allow-remote"),
    ],
)
def test_a_config_file_that_cannot_be_used_is_named_with_its_key(home: Path, config: str, named: str) -> None:
    home.mkdir()
    (home / "config.toml").write_text(config)
    said = refused("serve", "--home", str(home), "--port", "0")
    assert named in said
    assert str(home / "config.toml") in said or "0.0.0.0" in said
    assert [path.name for path in home.iterdir()] == ["config.toml"]


def test_a_config_file_that_cannot_be_read_is_named(home: Path) -> None:
    (home / "config.toml").mkdir(parents=True)
    assert f"cannot read {home / 'config.toml'}" in refused("serve", "--home", str(home))


def test_an_environment_variable_that_cannot_be_used_is_named(home: Path) -> None:
    arguments = ("serve", "--home", str(home))
    assert "CAR_TRIO_SERVER_PORT is 'many'" in refused(*arguments, CAR_TRIO_SERVER_PORT="many")
    assert "CAR_HANDLER_TIMEOUT is '0'" in refused(*arguments, CAR_HANDLER_TIMEOUT="0")
    assert "CAR_TOOL_TIMEOUT is 'soon'" in refused(*arguments, CAR_TOOL_TIMEOUT="soon")
    assert not home.exists()


def test_a_relative_car_home_is_refused_by_its_value(tmp_path: Path) -> None:
    said = refused("serve", CAR_HOME="here/and-there", HOME=str(tmp_path))
    assert "CAR_HOME" in said
    assert "'here/and-there'" in said
    assert "absolute" in said
    assert tree(tmp_path) == {}


def test_unknown_keys_and_broken_keys_of_runs_are_warnings_that_name_them(make_daemon: MakeDaemon) -> None:
    config = "[runs]\nmax_turns = 'many'\ncolour = 1\n[server]\nprot = 9100\n[sever]\nport = 1\n"
    daemon = make_daemon(config=config).start()
    for named in ("[runs] max_turns is 'many'", "[runs] colour", "[server] prot", "[sever]"):
        assert [line for line in daemon.said().splitlines() if named in line and " warning " in line], named


def test_a_taken_port_is_named_and_no_run_is_touched(daemon: DaemonProcess) -> None:
    with daemon.client("alice") as alice:
        run_id = start_run(alice)
        daemon.kill()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        before = tree(daemon.home)
        said = refused("serve", "--home", str(daemon.home), "--port", str(port))
    assert f"127.0.0.1 port {port}" in said
    assert "--port" in said
    after = tree(daemon.home)
    assert after["ai.parslee.car/auth-token"] == before["ai.parslee.car/auth-token"]
    assert {path for path in after if path.startswith(("runs", "run/car.sock"))} == {
        path for path in before if path.startswith(("runs", "run/car.sock"))
    }
    assert len(lines_on_disk(daemon.home, run_id)) == 1
    daemon.start()
    assert daemon.end_of(run_id) == {"kind": "incomplete", "reason": "orphaned"}


def test_a_second_daemon_on_the_same_root_names_the_first_one_and_changes_nothing(
    daemon: DaemonProcess,
) -> None:
    with daemon.client("alice") as alice:
        run_id = start_run(alice)
        before = tree(daemon.home)
        said = refused("serve", "--home", str(daemon.home), "--port", "0")
        assert str(daemon.pid) in said
        assert daemon.url in said
        assert str(daemon.home) in said
        assert tree(daemon.home) == before
        assert alice.call("runs.complete", {"run_id": run_id, "outcome": {"status": "done"}})["ok"]


def test_a_socket_path_that_no_kernel_takes_is_named_with_its_way_out(tmp_path: Path) -> None:
    home = tmp_path / ("h" * 107)
    said = refused("serve", "--home", str(home), "--port", "0")
    assert str(home / "run" / "car.sock") in said
    assert "107" in said
    assert "--socket" in said
    assert not (home / "ai.parslee.car").exists()


def test_a_long_home_serves_with_a_short_socket_or_without_one(
    make_daemon: MakeDaemon, tmp_path: Path, short_directory: Path
) -> None:
    home = tmp_path / ("h" * 107)
    short = short_directory / "car.sock"
    daemon = make_daemon("--socket", str(short), home=home).start()
    with SecondClient.dial_unix(short) as client:
        assert client.auth(daemon.token)["ok"]
    assert daemon.stop() == 0
    assert not short.exists()
    daemon.flags = ("--socket", "off")
    daemon.start()
    assert not short.exists()
    assert json.loads((home / "run" / "daemon.json").read_text())["socket"] is None


@pytest.fixture
def short_directory() -> Iterator[Path]:
    """A directory with a path short enough for a socket, whatever the test run's own directory is."""
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        yield Path(directory)


def test_something_else_in_the_sockets_place_is_named_and_left_alone(home: Path) -> None:
    (home / "run").mkdir(parents=True)
    (home / "run" / "car.sock").write_text("not yours")
    said = refused("serve", "--home", str(home), "--port", "0")
    assert str(home / "run" / "car.sock") in said
    assert "--socket" in said
    assert (home / "run" / "car.sock").read_text() == "not yours"


def test_a_home_that_is_a_file_is_named(home: Path) -> None:
    home.write_text("mine")
    said = refused("serve", "--home", str(home), "--port", "0")
    assert str(home) in said
    assert "--home" in said
    assert home.read_text() == "mine"


def test_a_home_that_cannot_be_written_is_named() -> None:
    said = refused("serve", "--home", "/proc/car-home", "--port", "0")
    assert "/proc/car-home" in said
    assert "--home" in said


def test_a_run_directory_that_is_a_link_is_refused_and_not_followed(home: Path, tmp_path: Path) -> None:
    home.mkdir()
    (tmp_path / "elsewhere").mkdir()
    (home / "runs").symlink_to(tmp_path / "elsewhere")
    said = refused("serve", "--home", str(home), "--port", "0")
    assert str(home / "runs") in said
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_token_path_that_is_a_directory_is_named(home: Path, tmp_path: Path) -> None:
    place = tmp_path / "token"
    place.mkdir()
    said = refused("serve", "--home", str(home), "--port", "0", "--auth-token-file", str(place))
    assert str(place) in said
    assert "--auth-token-file" in said
    assert not (home / "run" / "car.sock").exists()
    assert not (home / "run" / "daemon.json").exists()


def test_a_token_directory_that_cannot_be_made_is_named(home: Path) -> None:
    home.mkdir()
    (home / "ai.parslee.car").write_text("mine")
    said = refused("serve", "--home", str(home), "--port", "0")
    assert str(home / "ai.parslee.car") in said
    assert (home / "ai.parslee.car").read_text() == "mine"


def test_without_authentication_there_are_no_tokens(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon("--no-auth").start()
    assert not daemon.token_file.exists()
    with SecondClient.dial(daemon.url) as client:
        assert start_run(client, agent_id="a")


def test_the_ready_line_says_that_tokens_travel_in_clear_when_the_network_is_served(
    make_daemon: MakeDaemon,
) -> None:
    daemon = make_daemon("--host", "0.0.0.0", "--allow-remote").start()
    assert "clear" in daemon.remarks
    with SecondClient.dial(f"ws://127.0.0.1:{daemon.port}") as client:
        assert client.auth(daemon.token)["ok"]


def test_a_ready_line_that_nobody_takes_is_no_reason_not_to_serve(home: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with Path("/dev/full").open("w") as full, log.open("w") as errors:
        process = subprocess.Popen(
            command("serve", "--home", str(home), "--port", "0"),
            env=clean_environment({}),
            stdout=full,
            stderr=errors,
        )
    try:
        with SecondClient.dial_unix(until(lambda: listening(home))) as client:
            assert client.call("server.health")["ok"]
        process.terminate()
        assert process.wait(PATIENCE) == 0, log.read_text()
    finally:
        process.kill()
        process.wait()
    assert "Traceback" not in log.read_text()


def listening(home: Path) -> Path | None:
    """The daemon's socket, once `daemon.json` tells of it."""
    return home / "run" / "car.sock" if (home / "run" / "daemon.json").exists() else None


# What a start replaces


def test_the_socket_and_the_tokens_of_a_dead_daemon_are_replaced(daemon: DaemonProcess) -> None:
    old = daemon.token
    daemon.kill()
    assert daemon.unix_socket.exists()
    daemon.start()
    assert daemon.token != old
    with SecondClient.dial_unix(daemon.unix_socket) as client:
        with pytest.raises(Refused, match="auth failed: token mismatch"):
            client.auth(old)
        assert client.auth(daemon.token)["auth_enabled"] is True


def test_daemon_json_says_where_the_daemon_is(daemon: DaemonProcess) -> None:
    said = json.loads((daemon.home / "run" / "daemon.json").read_text())
    assert (said["pid"], said["url"], said["socket"]) == (daemon.pid, daemon.url, str(daemon.unix_socket))
    assert {"version", "started_at"} <= said.keys()


# A stop


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_is_clean_and_takes_its_files_along(daemon: DaemonProcess, number: int) -> None:
    with daemon.client("alice") as alice:
        start_run(alice)
        daemon.signal(number)
        with pytest.raises(ConnectionClosed) as closed:
            alice.receive()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1001
    assert daemon.ended() == 0
    gone = ("ai.parslee.car/auth-token", "ai.parslee.car/host-token", "run/car.sock", "run/daemon.json")
    assert [name for name in gone if (daemon.home / name).exists()] == []
    assert "Traceback" not in daemon.said()


def test_a_file_that_cannot_be_removed_is_named_and_fails_no_stop(daemon: DaemonProcess) -> None:
    path = daemon.home / "run" / "daemon.json"
    path.unlink()
    path.mkdir()
    assert daemon.stop() == 0
    assert f"{path} cannot be removed: " in daemon.said()
    assert "Traceback" not in daemon.said()


def test_a_token_that_somebody_else_wrote_meanwhile_is_not_removed(daemon: DaemonProcess) -> None:
    daemon.token_file.write_text("the token of another daemon")
    assert daemon.stop() == 0
    assert daemon.token_file.read_text() == "the token of another daemon"
    assert not daemon.token_file.with_name("host-token").exists()


def submit(client: SecondClient) -> tuple[int, dict[str, object]]:
    """A proposal whose tool has been asked for and has not answered; returns its id and the call."""
    client.call("tools.register", [{"name": "slow"}])
    action = {"id": "a1", "type": "tool_call", "tool": "slow", "parameters": {"n": 1}}
    request_id = client.ask("proposal.submit", {"proposal": {"id": "p", "actions": [action]}})
    return request_id, client.request()["params"]


def stopping(daemon: DaemonProcess) -> None:
    """Asks for the stop and waits until nobody new is let in."""
    daemon.signal(signal.SIGTERM)

    def is_closed() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", daemon.port)) != 0

    until(is_closed, "the port is closed")


def test_a_tool_call_under_way_gets_its_answer_within_the_drain(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon(config="[server]\ndrain_seconds = 3600\n").start()
    with daemon.client("alice") as alice:
        run_id = start_run(alice)
        request_id, call = submit(alice)
        stopping(daemon)
        with pytest.raises(Refused, match="daemon is stopping"):
            alice.call("runs.start", {"intent": "too late"})
        alice.answer(call["request_id"], {"done": True})
        result = alice.reply(request_id)
        assert result["results"][0]["output"] == {"done": True}
        with pytest.raises(ConnectionClosed) as closed:
            alice.receive()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1001
    assert daemon.ended() == 0
    _, turn, ended = lines_on_disk(daemon.home, run_id)
    assert turn["output"] == {"done": True}
    assert ended["termination"] == {"kind": "incomplete", "reason": "shutdown"}


def test_a_tool_call_that_outlasts_the_drain_is_cancelled_and_its_submit_refused(
    make_daemon: MakeDaemon,
) -> None:
    daemon = make_daemon(config="[server]\ndrain_seconds = 0.2\n").start()
    with daemon.client("alice") as alice:
        run_id = start_run(alice)
        request_id, call = submit(alice)
        daemon.signal(signal.SIGTERM)
        cancel = alice.event("tools.cancel")
        assert (cancel["request_id"], cancel["action_id"]) == (call["request_id"], "a1")
        with pytest.raises(Refused, match="daemon is stopping") as refusal:
            alice.reply(request_id)
        assert refusal.value.code == -32603
        with pytest.raises(ConnectionClosed):
            alice.receive()
        assert [frame for frame in alice.kept if frame.get("method") == "tools.cancel"] == []
    assert daemon.ended() == 0
    records = lines_on_disk(daemon.home, run_id)
    assert records[-1]["termination"] == {"kind": "incomplete", "reason": "shutdown"}


def test_a_client_that_neither_reads_nor_leaves_does_not_hold_the_stop(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon(config="[server]\ndrain_seconds = 0.2\n").start()
    with daemon.client("alice") as alice, socket.create_connection(("127.0.0.1", daemon.port)):
        run_id = start_run(alice)
        submit(alice)
        assert daemon.stop() == 0
    assert lines_on_disk(daemon.home, run_id)[-1]["record"] == "ended"


def test_a_second_signal_ends_the_process_at_once_and_what_was_acknowledged_stays(
    make_daemon: MakeDaemon,
) -> None:
    daemon = make_daemon(config="[server]\ndrain_seconds = 3600\n").start()
    with daemon.client("alice") as alice:
        run_id = start_run(alice)
        submit(alice)
        stopping(daemon)
        daemon.signal(signal.SIGTERM)
        assert daemon.ended() == 1
    daemon.start()
    assert daemon.end_of(run_id) == {"kind": "incomplete", "reason": "orphaned"}


# The service manager


@pytest.fixture
def notifications(short_directory: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(str(short_directory / "notify"))
        channel.settimeout(PATIENCE)
        yield channel


def test_the_service_manager_hears_of_readiness_life_and_stop(
    make_daemon: MakeDaemon, notifications: socket.socket
) -> None:
    # Seldom enough: a kernel keeps as few as ten of them for us, and the word of the stop is said once.
    environment = {"NOTIFY_SOCKET": notifications.getsockname(), "WATCHDOG_USEC": "1000000"}
    daemon = make_daemon(environment=environment).start()
    heard = {notifications.recv(100) for _ in range(4)}
    assert heard == {b"READY=1", b"WATCHDOG=1"}
    daemon.signal(signal.SIGTERM)
    until(lambda: notifications.recv(100) == b"STOPPING=1")
    assert daemon.ended() == 0


def test_a_stopped_loop_sends_no_signs_of_life(make_daemon: MakeDaemon, notifications: socket.socket) -> None:
    environment = {"NOTIFY_SOCKET": notifications.getsockname(), "WATCHDOG_USEC": "20000"}
    daemon = make_daemon(environment=environment).start()
    until(lambda: notifications.recv(100) == b"WATCHDOG=1")
    daemon.signal(signal.SIGSTOP)
    state = re.compile(r"State:\s+T")
    until(lambda: state.search(Path(f"/proc/{daemon.pid}/status").read_text()), "the process stands still")
    notifications.setblocking(False)
    with pytest.raises(BlockingIOError):
        while True:
            notifications.recv(100)
    daemon.signal(signal.SIGCONT)
    notifications.settimeout(PATIENCE)
    assert notifications.recv(100) == b"WATCHDOG=1"


def test_a_service_manager_that_has_gone_is_no_reason_to_fail(
    make_daemon: MakeDaemon, short_directory: Path
) -> None:
    daemon = make_daemon(environment={"NOTIFY_SOCKET": str(short_directory / "nobody")}).start()
    assert daemon.stop() == 0


# Where things are


def test_the_version_and_the_help_are_told_without_a_home() -> None:
    for argument in ("--version", "--help"):
        said = subprocess.run(
            command(argument),
            check=False,
            env=clean_environment({}),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        assert (said.returncode, said.stderr) == (0, "")
        assert said.stdout


def test_tokens_are_where_the_clients_look_for_them(make_daemon: MakeDaemon, tmp_path: Path) -> None:
    elsewhere = tmp_path / "private" / "token"
    daemon = make_daemon("--auth-token-file", str(elsewhere)).start()
    assert re.fullmatch(r"[A-Za-z0-9_-]{43}", elsewhere.read_text())
    assert not daemon.token_file.exists()
    assert re.fullmatch(r"[A-Za-z0-9_-]{43}", daemon.host_token)
    assert daemon.stop() == 0
    assert not elsewhere.exists()


def test_no_secret_is_in_the_arguments_the_log_or_the_runs(daemon: DaemonProcess) -> None:
    secrets = [daemon.token, daemon.host_token]
    with daemon.client("alice", host=True) as alice:
        start_run(alice)
        with pytest.raises(Refused):
            alice.auth(secrets[0] + "x")
    arguments = Path(f"/proc/{daemon.pid}/cmdline").read_bytes().decode()
    assert daemon.stop() == 0
    told = [
        arguments,
        daemon.said(),
        *(each[2].decode(errors="replace") for each in tree(daemon.home).values()),
    ]
    assert not [text for text in told for secret in secrets if secret in text]
