"""What is known of types before threads use them. In a process of its own: here most types were used by other tests."""

from __future__ import annotations

import subprocess
import sys

from tests.process.daemon_process import PATIENCE

PROGRAM = """
import sys
from contextlib import suppress

import msgspec
import car_trio.methods.table
from car_trio.wire.types import _below, learn_types

asked = []

def note(frame, event, _):
    if event == "call" and "msgspec" in frame.f_code.co_filename:
        asked.append(frame.f_code.co_name)

def use(kind):
    with suppress(msgspec.ValidationError):
        msgspec.convert(dict.fromkeys(kind.__struct_encode_fields__), kind)

kinds = list(_below(msgspec.Struct))
sys.setprofile(note)
use(kinds[0])
before = len(asked)
learn_types()
learnt = len(asked)
for kind in kinds:
    use(kind)
sys.setprofile(None)
print(len(kinds) > 100, before > 0, learnt > before, len(asked) - learnt)
"""


def test_once_types_are_learnt_nothing_more_is_found_out_when_they_are_used() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], check=False, capture_output=True, text=True, timeout=PATIENCE
    )
    assert (done.stdout, done.stderr) == ("True True True 0\n", "")
