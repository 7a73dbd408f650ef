"""The standard streams as commands rely on them: all three are there, and whatever is said can be written.

A stream that the caller closed leads nowhere: otherwise the next file that is opened would take its number, and with it
what a program underneath prints. A character that the output's encoding lacks becomes a `?` in a terminal, so that
columns stay; elsewhere its number as JSON writes it, so that a document still means the same. An output that takes no
more is told from every other file by the type of its error. What standard error does not take is lost: who could be
told of it, and the exit code stays what it is.
"""

from __future__ import annotations

import codecs
import io
import os
import sys
from contextlib import suppress

NUMBERED = "car_trio.numbered"
"""The name of the way to encode what cannot be."""


class OutputError(OSError):
    """Standard output cannot be written."""

    def __str__(self) -> str:
        return f"standard output cannot be written: {self.strerror}; send it somewhere else"


class _Output(io.FileIO):
    def write(self, b: object, /) -> int:
        try:
            return super().write(b)  # type: ignore[arg-type]
        except BrokenPipeError:
            raise
        except OSError as error:
            raise OutputError(error.errno, error.strerror) from None


class _Remarks(io.FileIO):
    def write(self, b: object, /) -> int:
        try:
            return super().write(b)  # type: ignore[arg-type]
        except OSError:
            return memoryview(b).nbytes  # type: ignore[arg-type]


def prepare() -> None:
    """Makes the streams of this process so."""
    codecs.register_error(NUMBERED, numbered)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_RDWR)
            os.set_inheritable(descriptor, True)
            setattr(sys, name, open(descriptor, mode, closefd=False))  # noqa: SIM115 - lives as long as we do
    given, remarks = sys.stdout, sys.stderr
    sys.stdout = io.TextIOWrapper(
        io.BufferedWriter(_Output(given.fileno(), "w", closefd=False)),
        given.encoding,
        "replace" if given.isatty() else NUMBERED,
        line_buffering=given.isatty(),
    )
    sys.stderr = io.TextIOWrapper(
        io.BufferedWriter(_Remarks(remarks.fileno(), "w", closefd=False)),
        remarks.encoding,
        remarks.errors,
        line_buffering=True,
    )


def numbered(error: UnicodeError) -> tuple[str, int]:
    """What could not be encoded, as JSON writes it in ASCII."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    units = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[n : n + 4]}" for n in range(0, len(units), 4)), error.end


def let_go() -> None:
    """Nothing more is written to standard output. What stays in its buffer must not fail once more at the end."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        os.dup2(nowhere, sys.stdout.fileno())
