"""Envelopes: what is read, what is refused with which code, and how ids go back (`wire.md` section 2)."""

from __future__ import annotations

import json

import pytest
from msgspec import UNSET, Raw

from car_trio.wire.errors import Refusal, storage_degraded
from car_trio.wire.frames import (
    Unreadable,
    error_frame,
    is_utf8,
    notification,
    parse,
    read_error,
    request,
    result_frame,
)


def refused(message: bytes) -> tuple[int, bytes]:
    with pytest.raises(Unreadable) as caught:
        parse(message)
    return caught.value.code, caught.value.reply_id


def test_a_request_keeps_its_params_unread():
    frame = parse(b'{"jsonrpc":"2.0","id":7,"method":"m","params":{"a": 1e400}}')
    assert (frame.method, bytes(frame.id), bytes(frame.params)) == ("m", b"7", b'{"a": 1e400}')


def test_jsonrpc_may_be_missing_and_params_may_be_absent():
    frame = parse(b'{"id":"x","method":"m"}')
    assert frame.params is UNSET
    assert bytes(frame.id) == b'"x"'


@pytest.mark.parametrize("text", [b"", b"nope", b'{"a":', b'{"method":"m"} {}', b'"\\ud800"x'])
def test_what_is_not_json_is_a_parse_error_without_an_id(text):
    assert refused(text) == (-32700, b"null")


@pytest.mark.parametrize("text", [b"[]", b' [{"id":1,"method":"m"}]', b"5", b'"m"', b"null"])
def test_json_that_is_not_one_object_is_refused_with_a_null_id(text):
    assert refused(text) == (-32600, b"null")


def test_a_method_that_is_not_a_string_is_refused_under_its_own_id():
    assert refused(b'{"id":1,"method":5}') == (-32600, b"1")


def test_an_object_that_is_neither_a_request_nor_a_reply_is_refused():
    assert refused(b"{}") == (-32600, b"null")


@pytest.mark.parametrize("bad", [b"{}", b"[1]", b"true", b'"' + b"x" * 300 + b'"'])
def test_an_id_that_cannot_be_echoed_is_refused_with_null(bad):
    assert refused(b'{"id":' + bad + b',"method":"m"}') == (-32600, b"null")
    assert refused(b'{"id":' + bad + b',"method":5}') == (-32600, b"null")


def test_an_envelope_nested_beyond_reason_is_refused():
    deep = b'{"id":1,"method":"m","params":' + b"[" * 50_000 + b"]" * 50_000 + b"}"
    assert refused(deep) == (-32600, b"null")


def test_a_wrong_envelope_nested_beyond_reason_is_refused_too():
    deep = b'{"method":5,"id":' + b"[" * 50_000 + b"]" * 50_000 + b"}"
    assert refused(deep)[0] == -32600


def test_a_reply_may_lack_its_result():
    assert parse(b'{"id":"cb-0"}').result is UNSET


@pytest.mark.parametrize("message", [b"plain", "ünï".encode(), bytearray("ü".encode())])
def test_utf8_is_recognised(message):
    assert is_utf8(message)


def test_bytes_that_are_not_utf8_are_recognised():
    assert not is_utf8(b'{"a":"\xff"}')


@pytest.mark.parametrize("given", [b"1", b'"1"', b"null", b"12345678901234567890"])
def test_an_id_goes_back_as_it_came(given):
    assert result_frame(given, b"true") == b'{"jsonrpc":"2.0","id":' + given + b',"result":true}'


def test_an_error_says_code_message_and_data_when_there_is_any():
    plain = json.loads(error_frame(b"1", Refusal("no")))
    assert plain == {"jsonrpc": "2.0", "id": 1, "error": {"code": -32603, "message": "no"}}
    rich = json.loads(error_frame(b"1", storage_degraded("disk full", pending=True)))
    assert rich["error"]["data"] == {"pending": True}
    assert rich["error"]["message"].startswith("storage degraded: disk full")
    assert "do not send it again" in rich["error"]["message"]


def test_a_refused_write_says_that_it_may_be_sent_again():
    refusal = storage_degraded("disk full", pending=False)
    assert (refusal.code, refusal.data) == (-32011, {"pending": False})
    assert "send it again later" in refusal.message


def test_our_own_requests_and_notifications_are_whole_frames():
    assert json.loads(request("m", "cb-1", {"a": 1})) == {
        "jsonrpc": "2.0",
        "method": "m",
        "id": "cb-1",
        "params": {"a": 1},
    }
    assert json.loads(notification("m", [])) == {"jsonrpc": "2.0", "method": "m", "params": []}


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b'{"code":1,"message":"boom","data":{"terminal":true}}', "boom"),
        (b'{"message":"boom"}', "boom"),
        (b'"boom"', 'malformed error: "boom"'),
        (b"{}", "malformed error: {}"),
    ],
)
def test_a_clients_error_is_read_leniently(raw, message):
    assert read_error(Raw(raw)).message == message


@pytest.mark.parametrize(
    ("data", "is_terminal"),
    [
        (b'{"terminal":true}', True),
        (b'{"other":[1],"terminal" : true , "more":1e999}', True),
        (b'{"terminal":"true"}', False),
        (b'{"terminal":1}', False),
        (b'{"terminal":[true]}', False),
        (b"[true]", False),
        (b'"terminal"', False),
        (b"null", False),
        (b"{}", False),
    ],
)
def test_only_an_object_that_says_so_is_a_terminal_error_and_nothing_else_of_it_is_read(data, is_terminal):
    message = bytearray(b'{"message":"m","data":%b}' % data)
    error = read_error(Raw(message))
    message[:] = b"x" * len(message)
    assert error.is_terminal is is_terminal
    assert bytes(error.data) == data


def test_an_error_without_data_is_not_terminal():
    assert read_error(Raw(b'{"message":"m"}')).is_terminal is False
