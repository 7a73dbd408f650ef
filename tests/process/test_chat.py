"""`car-trio chat` against a living daemon, with an agent that the test speaks for: in a pipe and in a terminal."""

from __future__ import annotations

import codecs
import json
import os
import pty
import select
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.homes import HOSTILE
from tests.process.daemon_process import PATIENCE, DaemonProcess, clean_environment, command
from tests.second_client import SecondClient


class Agent:
    """An attached agent."""

    def __init__(self, client: SecondClient) -> None:
        self.client = client
        self.session_id = ""

    def accept(self) -> dict[str, Any]:
        """Accepts the next chat; returns what was asked."""
        asked = self.client.request("agent.chat")
        self.client.answer(asked["id"], {"accepted": True})
        params: dict[str, Any] = asked["params"]
        self.session_id = params["session_id"]
        return params

    def say(self, kind: str, **fields: Any) -> None:
        self.client.notify("agent.chat.event", {"session_id": self.session_id, "kind": kind, **fields})

    def decided(self) -> Any:
        """Takes the answer to what it wanted approved."""
        asked = self.client.request("agent.chat.approve")
        self.client.answer(asked["id"], {"resolved": True})
        return asked["params"]["decision"]


class Terminal:
    """`car-trio chat` with a terminal for its input and its output."""

    def __init__(self, home: Path, *words: str) -> None:
        self.master, slave = pty.openpty()
        self.process = subprocess.Popen(
            command("chat", *words, "--home", str(home)),
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=clean_environment({"TERM": "xterm", "COLUMNS": "100"}),
            start_new_session=True,
        )
        os.close(slave)
        self.shown = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")()

    def until(self, text: str) -> str:
        """Reads until this is shown; returns what came before and forgets it."""
        while text not in self.shown:
            readable, _, _ = select.select([self.master], [], [], PATIENCE)
            assert readable, f"never shown: {text!r} after {self.shown!r}"
            self.shown += self._decoder.decode(os.read(self.master, 65536))
        before, _, self.shown = self.shown.partition(text)
        return before

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self.master)


@pytest.fixture
def agent(daemon: DaemonProcess) -> Iterator[Agent]:
    with daemon.client("ada") as client:
        yield Agent(client)


@pytest.fixture
def terminal(daemon: DaemonProcess, agent: Agent) -> Iterator[Terminal]:
    opened = Terminal(daemon.home, "ada")
    yield opened
    opened.close()


Begin = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def begin(daemon: DaemonProcess) -> Iterator[Begin]:
    begun: list[subprocess.Popen[str]] = []

    def start(*words: str, said: str = "") -> subprocess.Popen[str]:
        process = subprocess.Popen(
            command("chat", *words, "--home", str(daemon.home)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=clean_environment({}),
        )
        begun.append(process)
        assert process.stdin is not None
        process.stdin.write(said)
        process.stdin.flush()
        return process

    yield start
    for process in begun:
        if process.poll() is None:
            process.kill()
        process.communicate()


def test_in_a_pipe_each_line_is_a_prompt_and_the_text_is_all_there_is(agent: Agent, begin: Begin) -> None:
    process = begin("ada", "--model", "m", said="hello\n\nagain")
    assert process.stdin is not None
    process.stdin.close()
    process.stdin = None
    first = agent.accept()
    assert (first["prompt"], first["model"], first["stream"]) == ("hello", "m", True)
    agent.say("token", delta=f"hi{HOSTILE}\n")
    agent.say("token", delta="there")
    agent.say("done", finish_reason="stop", text="hi there")
    second = agent.accept()
    assert (second["prompt"], second["session_id"]) == ("again", first["session_id"])
    agent.say("done", finish_reason="stop", text="unstreamed")
    out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, err) == (0, "")
    assert out.startswith("hi\\x1b]0;owned\\x07")
    assert out.endswith("\nthere\nunstreamed\n")
    assert not set("\x1b\x07\u202e\x9b\r") & set(out)


def test_what_is_no_text_is_shown_on_lines_of_its_own_and_an_error_is_a_no(
    agent: Agent, begin: Begin
) -> None:
    process = begin("ada", said="go\n")
    agent.accept()
    agent.say("token", delta="so")
    agent.say("tool_call", tool="rm\x1b[2J", params={"path": "/"})
    agent.say("odd", x=[1])
    agent.say("token", delta={"no": "text"})
    agent.say("error", error="it broke\x1b[31m")
    out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, err) == (1, "")
    assert out.splitlines() == [
        "so",
        '  calls rm\\x1b[2J {"path":"/"}',
        '  odd {"x":[1]}',
        '{"no":"text"}',
        "error: it broke\\x1b[31m",
    ]


@pytest.mark.parametrize(
    ("answer", "decision"),
    [("y\n", "approve"), ("YES\n", "approve"), ("n\n", "deny"), ("sure\n", "deny"), ("", "deny")],
)
def test_only_a_yes_approves_and_the_end_of_the_input_denies(
    agent: Agent, begin: Begin, answer: str, decision: str
) -> None:
    process = begin("ada", said=f"go\n{answer}")
    if not answer:
        assert process.stdin is not None
        process.stdin.close()
        process.stdin = None
    agent.accept()
    agent.say("approval_pending", approval_id="a1", action="delete", details={"path": "\u202e" + "x" * 300})
    assert agent.decided() == decision
    agent.say("done", text="well")
    out, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert "delete: the agent asks for approval" in out
    assert "x" * 300 in out, "what is decided about is never shortened"
    assert "\u202e" not in out
    assert out.endswith(f"    {decision}\nwell\n")


def test_an_answer_that_the_agent_refuses_is_said_and_the_turn_goes_on(agent: Agent, begin: Begin) -> None:
    process = begin("ada", said="go\ny\n")
    agent.accept()
    agent.say("approval_pending", approval_id="a1", action="delete")
    asked = agent.client.request("agent.chat.approve")
    agent.client.answer(asked["id"], error={"code": -32603, "message": "too late"})
    agent.say("done")
    out, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert "approve, which had no effect: agent 'ada' refused: too late" in out


def test_json_is_one_event_on_each_line(agent: Agent, begin: Begin) -> None:
    process = begin("ada", "--json", said="go\nyes\n")
    agent.accept()
    agent.say("token", delta=HOSTILE)
    agent.say("approval_pending", approval_id="a1", action="delete")
    assert agent.decided() == "approve"
    agent.say("done", text="ok")
    out, _ = process.communicate(timeout=PATIENCE)
    events = [json.loads(line) for line in out.splitlines()]
    assert [event["kind"] for event in events] == ["token", "approval_pending", "done"]
    assert events[0]["delta"] == HOSTILE
    assert {event["agent_id"] for event in events} == {"ada"}
    assert "\x1b" not in out


def test_an_agent_that_is_not_attached_is_a_no_with_the_nearest(agent: Agent, begin: Begin) -> None:
    agent.client.call("host.register_agent", {"id": "ada", "name": "Ada", "kind": "test"})
    process = begin("adaa", said="hello\n")
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert "agent 'adaa' is not attached" in err
    assert "the nearest is 'ada'" in err
    assert len(err.splitlines()) == 1


def test_saying_nothing_to_nobody_is_a_no_and_to_an_agent_that_is_there_is_none(
    agent: Agent, begin: Begin
) -> None:
    agent.client.call("host.register_agent", {"id": "ada", "name": "Ada", "kind": "test"})
    out, err = begin("adaa").communicate(timeout=PATIENCE)
    assert (out, err) == (
        "",
        "car-trio: nothing was said, and there is no registered agent 'adaa'; the nearest is 'ada'\n",
    )
    process = begin("nobody", said="\n \n")
    _, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, "car-trio agents ls lists what there is" in err) == (1, True)
    process = begin("ada")
    assert process.communicate(timeout=PATIENCE) == ("", "")
    assert process.returncode == 0


def test_a_refusal_of_another_kind_is_a_no(agent: Agent, begin: Begin) -> None:
    process = begin("ada", said="hello\n")
    asked = agent.client.request("agent.chat")
    agent.client.answer(asked["id"], error={"code": -32603, "message": "busy"})
    _, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, "busy" in err) == (1, True)


def test_a_daemon_that_goes_ends_the_conversation(daemon: DaemonProcess, agent: Agent, begin: Begin) -> None:
    process = begin("ada", said="hello\n")
    agent.accept()
    daemon.kill()
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 3
    assert len(err.splitlines()) == 1


def test_an_interrupt_in_a_pipe_cancels_the_turn_and_between_turns_ends_the_command(
    agent: Agent, begin: Begin
) -> None:
    process = begin("ada", said="hello\n")
    agent.accept()
    agent.say("token", delta="never ending")
    assert process.stdout is not None
    assert process.stdout.read(len("never ending")) == "never ending"
    process.send_signal(signal.SIGINT)
    assert agent.client.event("agent.chat.cancel")["session_id"] == agent.session_id
    assert process.stdout.readline() + process.stdout.readline() == "\ncancelled\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE) == 130


def test_in_a_terminal_a_turn_can_be_cancelled_and_another_begun_and_ctrl_d_leaves(
    agent: Agent, terminal: Terminal
) -> None:
    terminal.until("you> ")
    terminal.type("first\n")
    first = agent.accept()
    agent.say("token", delta="thinking\x1b[2J")
    assert "\x1b[2J" not in terminal.until("thinking\\x1b[2J")
    terminal.process.send_signal(signal.SIGINT)
    agent.client.event("agent.chat.cancel")
    terminal.until("cancelled")
    terminal.until("you> ")
    terminal.process.send_signal(signal.SIGINT)
    terminal.until("Ctrl-D leaves")
    terminal.until("you> ")
    terminal.type("second\n")
    second = agent.accept()
    assert second["prompt"] == "second"
    assert second["session_id"] != first["session_id"], "the end of the first cannot be taken for its own"
    agent.say("approval_pending", approval_id="a1", action="delete", details=None)
    terminal.until("approve? [y/N] ")
    terminal.type("y\n")
    assert agent.decided() == "approve"
    agent.say("token", delta="gone")
    agent.say("done")
    terminal.until("ada> ")
    terminal.until("gone")
    terminal.until("you> ")
    terminal.type("third\n")
    refused = agent.client.request("agent.chat")
    agent.client.answer(refused["id"], error={"code": -32603, "message": "busy\x1b[31m"})
    terminal.until("busy\\x1b[31m")
    terminal.until("you> ")
    terminal.type("\x04")
    assert terminal.process.wait(PATIENCE) == 1, "a turn was refused"


def test_in_a_terminal_a_name_that_is_nearly_right_is_told_from_the_right_one(
    daemon: DaemonProcess, agent: Agent
) -> None:
    agent.client.call("host.register_agent", {"id": "ada", "name": "Ada", "kind": "test"})
    wrong = Terminal(daemon.home, "adaa")
    try:
        assert "the nearest is 'ada'" in wrong.until("talking with adaa")
        wrong.until("you> ")
        wrong.type("hello\n")
        wrong.until("agent 'adaa' is not attached")
        wrong.until("the nearest is 'ada'")
        wrong.until("you> ")
    finally:
        wrong.close()
