"""What msgspec has to know of the types that cross the socket or land on disk.

It finds out about a type when that is used for the first time, and what it knows by then is where other threads find it
too: of two that are first at the same time one reads what the other has not written yet, and the process dies (0.22, in
`convert`). So all is found out before there is a second thread.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import msgspec


def learn_types() -> None:
    """Everything about each type that is known by now. Takes some milliseconds the first time."""
    for kind in _below(msgspec.Struct):
        with suppress(TypeError):  # one that is only ever made, and that nothing could be read into
            msgspec.json.Decoder(kind)


def _below(kind: type) -> Iterator[type]:
    below: list[type] = kind.__subclasses__()
    for each in below:
        yield each
        yield from _below(each)
