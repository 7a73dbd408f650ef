"""The page over real sockets: where it listens, who gets in, and `car-trio ui`."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from car_trio import Daemon
from tests.process.daemon_process import (
    PATIENCE,
    DaemonProcess,
    clean_environment,
    command,
    free_ports,
    record,
    start_run,
    until,
)
from tests.process.raw import text
from tests.second_client import OPTIONS, Refused, SecondClient

MakeDaemon = Callable[..., DaemonProcess]
UPGRADE = (
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version: 13",
)


def ran(home: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*words, "--home", str(home)),
        capture_output=True,
        text=True,
        check=False,
        env=clean_environment({"DISPLAY": "", "WAYLAND_DISPLAY": "", "BROWSER": "", **environment}),
        timeout=PATIENCE,
    )


def said_of_itself(daemon: DaemonProcess) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((daemon.home / "run" / "daemon.json").read_text())
    return found


def port_of(daemon: DaemonProcess) -> int:
    """The page's port."""
    url = said_of_itself(daemon)["web_url"]
    assert url.startswith("http://127.0.0.1:")
    assert url.endswith("/")
    return int(url.rstrip("/").rsplit(":", 1)[1])


def status(port: int, path: str = "/", method: str = "GET", **headers: str) -> int:
    page = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        page.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        return page.getresponse().status
    finally:
        page.close()


def dial(port: int, host: str = "127.0.0.1") -> SecondClient:
    """The page's WebSocket, as a browser opens it."""
    return SecondClient(connect(f"ws://{host}:{port}/rpc", origin=f"http://{host}:{port}", **OPTIONS))  # type: ignore[arg-type]


def code_of(daemon: DaemonProcess) -> str:
    with daemon.client(host=True) as host:
        code: str = host.call("host.web_code")["code"]
        return code


def address(port: int, *lines: str, path: str = "/", method: str = "GET") -> bytes:
    return "\r\n".join((f"{method} {path} HTTP/1.1", f"Host: 127.0.0.1:{port}", *lines, "", "")).encode()


@pytest.fixture
def bare(port: int) -> Callable[[], socket.socket]:
    """Connections to the page's port that say nothing by themselves."""
    return lambda: socket.create_connection(("127.0.0.1", port), PATIENCE)


@pytest.fixture
def port(daemon: DaemonProcess) -> int:
    return port_of(daemon)


# Where it listens


async def test_the_page_is_on_the_next_port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CAR_HOME", "XDG_RUNTIME_DIR", "NOTIFY_SOCKET"):
        monkeypatch.delenv(name, raising=False)
    first = free_ports(2)
    async with trio.open_nursery() as nursery:
        endpoint = await nursery.start(Daemon(tmp_path, {"server.port": first}).serve)
        assert endpoint.web_url == f"http://127.0.0.1:{first + 1}/"
        assert await trio.to_thread.run_sync(status, first + 1) == 200
        nursery.cancel_scope.cancel()


def test_the_flag_goes_before_the_environment_and_that_before_the_file(make_daemon: MakeDaemon) -> None:
    by_file = free_ports(3)
    by_environment, by_flag = by_file + 1, by_file + 2
    config = f"[web]\nport = {by_file}\n"
    daemon = make_daemon(config=config).start()
    assert port_of(daemon) == by_file
    daemon.environment["CAR_TRIO_WEB_PORT"] = str(by_environment)
    assert port_of(daemon.restart()) == by_environment
    daemon.flags = ("--web-port", str(by_flag))
    assert port_of(daemon.restart()) == by_flag


@pytest.mark.parametrize(
    ("flags", "config", "environment"),
    [
        (("--web-port", "off"), "", {}),
        ((), "[web]\nenabled = false\n", {}),
        ((), "", {"CAR_TRIO_WEB_ENABLED": "false"}),
    ],
)
def test_the_page_can_be_turned_off_and_is_said_to_be(
    make_daemon: MakeDaemon, flags: tuple[str, ...], config: str, environment: dict[str, str]
) -> None:
    daemon = make_daemon(*flags, config=config, environment=environment).start()
    assert "web_url" not in said_of_itself(daemon)
    said = ran(daemon.home, "ui")
    assert (said.returncode, said.stdout) == (1, "")
    assert "the page is off; set [web] enabled = true, or give --web-port N" in said.stderr
    assert "not served" in ran(daemon.home, "status").stdout
    found = ran(daemon.home, "doctor").stdout
    assert "ok        the daemon serves no page, as it was told" in found
    assert "\nwarning" not in found


def test_a_taken_port_costs_the_page_and_nothing_else(make_daemon: MakeDaemon) -> None:
    port = free_ports()
    with socket.create_server(("127.0.0.1", port)):
        daemon = make_daemon("--web-port", str(port)).start()
        assert "web_url" not in said_of_itself(daemon)
        warning = next(line for line in daemon.said().splitlines() if " warning " in line)
        assert f"127.0.0.1 port {port}" in warning
        assert "--web-port" in warning
        assert (
            f"warning   the page is not served: cannot listen on 127.0.0.1 port {port}"
            in ran(daemon.home, "doctor").stdout
        )
        with daemon.client("alice") as alice:
            assert start_run(alice)
        said = ran(daemon.home, "ui")
        assert said.returncode == 1
        assert f"port {port}" in said.stderr
        found = json.loads(ran(daemon.home, "doctor", "--json").stdout)["findings"]
        assert [each["level"] for each in found if each["check"] == "page"] == ["warning"]
    assert port_of(daemon.restart()) == port


def test_doctor_sees_that_the_port_will_be_taken(make_daemon: MakeDaemon) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        daemon = make_daemon(config=f"[web]\nport = {taken.getsockname()[1]}\n")
        found = json.loads(ran(daemon.home, "doctor", "--json").stdout)["findings"]
        (finding,) = [each for each in found if each["check"] == "page"]
        assert (finding["level"], str(taken.getsockname()[1]) in finding["what"]) == ("warning", True)


@pytest.mark.parametrize("flag", ["70000", "-1", "many"])
def test_a_port_that_is_none_is_refused(tmp_path: Path, flag: str) -> None:
    ended = ran(tmp_path / "home", "serve", "--web-port", flag)
    assert ended.returncode == 2
    assert "web-port" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_the_page_stays_on_loopback_wherever_the_daemon_listens(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon("--host", "0.0.0.0", "--allow-remote").start()
    # Both are this machine; the first is an address that only a listener on all of them has.
    with socket.create_connection(("127.0.0.2", daemon.port), PATIENCE):
        pass
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", port_of(daemon)), PATIENCE)
    assert status(port_of(daemon)) == 200


def test_config_show_says_the_port_that_follows_from_the_servers(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon(config="[server]\nport = 9300\n")

    def shown(**environment: str) -> Any:
        found = json.loads(ran(daemon.home, "config", "show", "--json", **environment).stdout)["settings"]
        return {each["key"]: (each["value"], each["source"]) for each in found if each["section"] == "web"}

    assert shown() == {"enabled": (True, "default"), "port": (9301, "default")}
    assert shown(CAR_TRIO_SERVER_PORT="0")["port"] == (0, "default")
    assert shown(CAR_TRIO_SERVER_PORT="65535")["port"] == (0, "default")
    assert shown(CAR_TRIO_WEB_PORT="9999")["port"] == (9999, "CAR_TRIO_WEB_PORT")


# Who gets in


def test_a_browser_gets_the_page_and_others_get_nothing(daemon: DaemonProcess, port: int) -> None:
    own = {"Sec_Fetch_Site": "none", "Sec_Fetch_Mode": "navigate"}
    assert status(port, **own) == 200
    assert status(port, Host=f"rebound.example:{port}") == 421
    assert status(port, Host=f"127.0.0.1:{daemon.port}") == 421
    assert status(port, Origin="https://evil.example") == 403
    assert status(port, Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="no-cors") == 403
    assert status(port, method="POST") == 405
    assert status(port, "/etc/passwd") == 404


@pytest.mark.parametrize("origin", [None, "null", "https://evil.example", "http://localhost:3000"])
def test_a_websocket_of_another_origin_is_not_opened(port: int, origin: str | None) -> None:
    with pytest.raises(InvalidStatus) as caught:
        connect(f"ws://127.0.0.1:{port}/rpc", origin=origin, **OPTIONS)  # type: ignore[arg-type]
    assert caught.value.response.status_code == 403


def test_a_rebound_name_opens_no_websocket_of_its_own_origin(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as browser:
        lines = [f"GET /rpc HTTP/1.1\r\nHost: rebound.example:{port}", *UPGRADE]
        browser.sendall("\r\n".join((*lines, f"Origin: http://rebound.example:{port}", "", "")).encode())
        assert browser.makefile("rb").readline().startswith(b"HTTP/1.1 421 ")


def test_a_browser_signs_in_once_per_code_and_again_with_its_session(
    daemon: DaemonProcess, port: int
) -> None:
    code = code_of(daemon)
    with dial(port) as page, daemon.client("alice") as alice:
        key = page.call("session.auth", {"web_code": code})["web_session"]
        run_id = start_run(alice)
        page.call("runs.subscribe", {"run_id": run_id})
        record(alice, run_id, 1)
        assert page.event("runs.trace.event")["record"]["prompt"] == "turn 1"
    with dial(port, "localhost") as page:
        with pytest.raises(Refused, match="used already"):
            page.call("session.auth", {"web_code": code})
        assert page.call("session.auth", {"web_session": key})["role"] == "host"
    with daemon.client() as stranger, pytest.raises(Refused, match="token mismatch"):
        stranger.call("session.auth", {"web_session": key})


def test_a_stop_revokes_every_session_and_every_code(daemon: DaemonProcess, port: int) -> None:
    code = code_of(daemon)
    with dial(port) as page:
        key = page.call("session.auth", {"web_code": code_of(daemon)})["web_session"]
        daemon.restart()
    with dial(port_of(daemon)) as page:
        for shown in ({"web_session": key}, {"web_code": code}):
            with pytest.raises(Refused, match="^auth failed"):
                page.call("session.auth", shown)


def test_bytes_right_behind_the_upgrade_arrive(bare: Callable[[], socket.socket], port: int) -> None:
    health = text({"jsonrpc": "2.0", "id": 1, "method": "server.health"})
    sent = address(port, f"Origin: http://127.0.0.1:{port}", *UPGRADE, path="/rpc") + health * 50
    with bare() as browser:
        browser.sendall(sent)
        came = b""
        while came.count(b'"ok":true') < 50:
            data = browser.recv(65_536)
            assert data
            came += data
        assert came.startswith(b"HTTP/1.1 101 ")


# Hostile


def test_the_answer_arrives_although_more_was_sent_than_is_read(
    bare: Callable[[], socket.socket], port: int
) -> None:
    with bare() as browser:
        browser.sendall(address(port, "Content-Length: 8000000", method="POST") + b"x" * 8_000_000)
        assert browser.makefile("rb").readline() == b"HTTP/1.1 413 Request Entity Too Large\r\n"


def test_a_hundred_half_open_connections_leave_everybody_else_served(
    daemon: DaemonProcess, bare: Callable[[], socket.socket], port: int
) -> None:
    with contextlib.ExitStack() as stack:
        for number in range(100):
            silent = stack.enter_context(bare())
            with contextlib.suppress(OSError):
                silent.sendall(b"GET / HTTP/1.1\r\nHost: 127" if number % 2 else b"")
        assert status(port) == 200
        with daemon.client("alice") as alice, dial(port) as page:
            assert start_run(alice)
            assert page.call("session.auth", {"web_code": code_of(daemon)})["role"] == "host"


def test_visits_leave_nothing_behind(
    daemon: DaemonProcess, bare: Callable[[], socket.socket], port: int
) -> None:
    for _ in range(20):
        assert status(port) == 200
        assert status(port, "/nothing") == 404
        with bare() as browser:
            browser.sendall(b"\x16\x03\x01 hello\r\n\r\n")
        with dial(port) as page:
            page.call("session.auth", {"web_code": code_of(daemon)})
    until(lambda: daemon.sockets() == daemon.idle_sockets, "all of the visits' sockets are closed")
    assert "Traceback" not in daemon.said()


def test_a_stop_does_not_wait_for_visitors(daemon: DaemonProcess, bare: Callable[[], socket.socket]) -> None:
    with bare() as silent, bare() as slow:
        slow.sendall(b"GET / HT")
        assert daemon.stop() == 0
        assert silent.recv(1) == b""


def test_no_secret_is_ever_in_the_log(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon("--log-level", "debug").start()
    port, code = port_of(daemon), code_of(daemon)
    with dial(port) as page:
        key = page.call("session.auth", {"web_code": code})["web_session"]
        for shown in ({"web_code": code}, {"web_session": key + "x"}, {"token": daemon.token}):
            with pytest.raises(Refused):
                page.call("session.auth", shown)
    assert status(port, f"/?code={code}") == 200
    assert status(port, f"/{key}") == 404
    secrets = (code, key, daemon.token, daemon.host_token)
    assert daemon.stop() == 0
    files = [path.read_bytes().decode(errors="replace") for path in daemon.home.rglob("*") if path.is_file()]
    assert not [each for each in secrets for place in (daemon.said(), *files) if each in place]


# car-trio ui


def code_in(line: str, port: int) -> str:
    before, _, code = line.rstrip("\n").partition("#code=")
    assert before == f"http://127.0.0.1:{port}/"
    assert len(code) == 43
    return code


def test_ui_prints_an_address_that_signs_in_once(daemon: DaemonProcess, port: int) -> None:
    said = ran(daemon.home, "ui", "--print")
    assert (said.returncode, said.stderr) == (0, "")
    with dial(port) as page:
        assert page.call("session.auth", {"web_code": code_in(said.stdout, port)})["role"] == "host"


def test_ui_where_no_screen_is_prints_the_address_too(daemon: DaemonProcess, port: int) -> None:
    said = ran(daemon.home, "ui")
    assert said.returncode == 0
    assert "no browser" in said.stderr
    assert code_in(said.stdout, port)


@pytest.fixture
def browser(tmp_path: Path) -> Path:
    """A browser that writes down what it is asked to open."""
    script = tmp_path / "browser"
    script.write_text(f'#!/bin/sh\necho "$1" > {tmp_path}/opened\n')
    script.chmod(0o700)
    return script


def test_ui_opens_the_browser_and_says_no_code(daemon: DaemonProcess, port: int, browser: Path) -> None:
    said = ran(daemon.home, "ui", BROWSER=f"{browser} %s")
    assert (said.returncode, said.stdout, said.stderr) == (0, f"opened http://127.0.0.1:{port}/\n", "")
    assert code_in((browser.parent / "opened").read_text(), port)


def test_ui_with_a_browser_that_fails_prints_the_address(daemon: DaemonProcess, port: int) -> None:
    said = ran(daemon.home, "ui", BROWSER="/bin/false %s")
    assert said.returncode == 0
    assert code_in(said.stdout, port)


def test_ui_without_a_daemon_is_exit_3(tmp_path: Path) -> None:
    url = f"ws://127.0.0.1:{free_ports()}"
    said = ran(tmp_path / "home", "ui", CAR_DAEMON_URL=url)
    assert (said.returncode, said.stdout) == (3, "")
    assert "car-trio serve" in said.stderr


@pytest.mark.parametrize("token", ["wrong", None])
def test_ui_without_the_right_token_is_exit_4(daemon: DaemonProcess, token: str | None) -> None:
    path = daemon.home / "ai.parslee.car" / "host-token"
    path.unlink()
    if token is not None:
        path.write_text(token)
        path.chmod(0o600)
    said = ran(daemon.home, "ui")
    assert (said.returncode, said.stdout) == (4, "")
    assert said.stderr.startswith("car-trio: ")
    assert len(said.stderr.splitlines()) == 1


def test_ui_of_a_daemon_without_authentication_opens_the_page(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon("--no-auth").start()
    said = ran(daemon.home, "ui", "--print")
    assert (said.returncode, said.stderr) == (0, "")
    with dial(port_of(daemon)) as page:
        assert page.call("host.agents") == []
