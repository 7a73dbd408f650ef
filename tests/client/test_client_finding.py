"""Where the client looks for the daemon and for its secrets."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from car_trio.client import TokenUnreadable
from car_trio.client.finding import Search, Tcp, Unix, parse_address


@pytest.fixture
def daemon_file(tmp_path: Path) -> Path:
    path = tmp_path / "home" / "run" / "daemon.json"
    path.parent.mkdir(parents=True)
    return path


def test_an_argument_wins_over_the_environment_and_the_daemon_file(
    monkeypatch: pytest.MonkeyPatch, daemon_file: Path
) -> None:
    monkeypatch.setenv("CAR_DAEMON_URL", "ws://environment:2")
    daemon_file.write_text(json.dumps({"url": "ws://file:3"}))
    assert Search(url="ws://argument:1").endpoint().address == Tcp("argument", 1, "/")
    assert Search(socket=Path("/s")).endpoint().address == Unix("/s")
    assert Search().endpoint().address == Tcp("environment", 2, "/")
    monkeypatch.delenv("CAR_DAEMON_URL")
    assert Search().endpoint().address == Tcp("file", 3, "/")


def test_without_a_home_or_a_daemon_file_the_default_address_is_tried_and_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("CAR_HOME")
    monkeypatch.setattr("platformdirs.user_state_path", lambda _: tmp_path / "usual")
    found = Search().endpoint()
    assert str(found.address) == "ws://127.0.0.1:9100/"
    assert str(tmp_path / "usual" / "run" / "daemon.json") in found.found_by


def test_whoever_names_a_home_gets_that_homes_daemon_and_no_other(
    monkeypatch: pytest.MonkeyPatch, daemon_file: Path
) -> None:
    home = daemon_file.parents[1]
    monkeypatch.setenv("CAR_HOME", str(home))
    for search in (Search(), Search(home=str(home))):
        found = search.endpoint()
        assert found.address == Unix(str(home / "run" / "car.sock"))
        assert str(daemon_file) in found.found_by


@pytest.mark.parametrize("content", ["", "[]", '{"url": 5}', "{}"])
def test_a_daemon_file_that_says_nothing_useful_is_passed_over(daemon_file: Path, content: str) -> None:
    daemon_file.write_text(content)
    assert Search().endpoint().address == Unix(str(daemon_file.parent / "car.sock"))


def test_a_daemon_file_without_a_url_leads_to_its_socket(daemon_file: Path) -> None:
    daemon_file.write_text(json.dumps({"pid": 1, "socket": "/run/car.sock"}))
    assert Search().endpoint().address == Unix("/run/car.sock")


def test_a_home_given_by_the_caller_wins_over_an_address_and_a_token_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, daemon_file: Path
) -> None:
    home = daemon_file.parents[1]
    daemon_file.write_text(json.dumps({"url": "ws://file:3"}))
    monkeypatch.setenv("CAR_DAEMON_URL", "ws://environment:2")
    monkeypatch.setenv("CAR_AUTH_TOKEN", "environment")
    assert Search(home=str(home)).endpoint().address == Tcp("file", 3, "/")
    assert Search(home=str(home)).token() == "environment"
    tokens = home / "ai.parslee.car"
    tokens.mkdir()
    (tokens / "auth-token").write_text("file")
    assert (Search(home=str(home)).token(), Search().token()) == ("file", "environment")


def test_a_home_given_by_the_caller_is_where_the_daemon_file_is(tmp_path: Path) -> None:
    run = tmp_path / "other" / "run"
    run.mkdir(parents=True)
    (run / "daemon.json").write_text(json.dumps({"url": "ws://other:4"}))
    assert Search(home=str(tmp_path / "other")).endpoint().address == Tcp("other", 4, "/")


@pytest.mark.parametrize(
    ("url", "address", "header"),
    [
        ("ws://localhost:9100", Tcp("localhost", 9100, "/"), "localhost:9100"),
        ("ws://h/some/path", Tcp("h", 80, "/some/path"), "h:80"),
        ("ws://[::1]:5", Tcp("::1", 5, "/"), "[::1]:5"),
        ("ws+unix:///a%20b/car.sock", Unix("/a b/car.sock"), "localhost"),
    ],
)
def test_the_forms_of_an_address(url: str, address: Tcp | Unix, header: str) -> None:
    assert parse_address(url) == address
    assert address.header == header


@pytest.mark.parametrize("url", ["http://h:1", "wss://h:1", "ws://", "ws+unix://", "9100", "ws://h:port"])
def test_an_address_of_another_form_is_refused_in_words(url: str) -> None:
    with pytest.raises(ValueError, match=r"expected ws://|[Pp]ort"):
        parse_address(url)


@pytest.mark.parametrize("url", ["ws://h:port", "ws://h:99999", "ws://[h", "http://h:1"])
def test_an_address_that_cannot_be_used_is_refused_with_who_said_so(
    monkeypatch: pytest.MonkeyPatch, daemon_file: Path, url: str
) -> None:
    daemon_file.write_text(json.dumps({"url": url}))
    for found, source in (
        (Search, f"from {daemon_file}"),
        (lambda: Search(url), "the url argument"),
    ):
        with pytest.raises(ValueError, match=re.escape(f"'{url}' ({source}) is not a daemon's address")):
            found().endpoint()
    monkeypatch.setenv("CAR_DAEMON_URL", url)
    with pytest.raises(ValueError, match=re.escape(f"'{url}' (from CAR_DAEMON_URL) is not a daemon's")):
        Search().endpoint()


def test_a_host_token_that_is_there_and_cannot_be_read_is_named(
    tmp_path: Path, give_tokens: Callable[..., None]
) -> None:
    give_tokens(auth_token="file", host_token="host")
    path = tmp_path / "home" / "ai.parslee.car" / "host-token"
    path.write_bytes(b"\xff")
    with pytest.raises(TokenUnreadable, match=re.escape(f"{path} cannot be read: it is not text; make it")):
        Search().host_token()
    path.unlink()
    assert Search().host_token() is None
    path.mkdir()
    with pytest.raises(TokenUnreadable, match=re.escape(f"{path} cannot be read: it is not a regular file")):
        Search().host_token()


def test_the_token_of_the_environment_wins_over_the_file(
    monkeypatch: pytest.MonkeyPatch, give_tokens: Callable[..., None]
) -> None:
    give_tokens(auth_token="file", host_token="host")
    assert (Search().token(), Search().host_token()) == ("file", "host")
    monkeypatch.setenv("CAR_AUTH_TOKEN", "environment")
    assert (Search().token(), Search().host_token()) == ("environment", "host")


def test_no_token_and_an_empty_token_file_are_the_same(give_tokens: Callable[..., None]) -> None:
    assert Search().token() is None
    give_tokens(auth_token="")
    assert Search().token() is None
