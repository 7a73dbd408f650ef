"""`car-trio runs export`: runs as files for other programs and other people.

Each format is a generator of text over records that are read page by page, so a run of any length is written without
being held. `jsonl` is the file itself, byte for byte; `json` and `otlp-json` are one document; `md` and `html` are for
reading, and what an agent wrote stays text in both.

A file that is written is for its user alone and appears whole or not at all. One that is there is replaced only when
that is asked for.
"""

from __future__ import annotations

import html
import os
import re
import sys
import tempfile
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import UNSET

from car_trio.cli.app import USAGE
from car_trio.cli.failures import FailedError
from car_trio.cli.files import Files
from car_trio.cli.flags import Flag, Home
from car_trio.cli.saying import counts, cuts, ended_badly, evidence, exit_of, is_in_output, went_wrong
from car_trio.cli.screen import counted, human_size, is_terminal, lasting, seconds_between
from car_trio.cli.timeline import decoded
from car_trio.store.survey import ref_of
from car_trio.wire.runs import CatalogRow, Damaged, Ended, Outcome, Started, Turn
from car_trio.wire.text import escaped, escaped_json, one_line

Format = Literal["jsonl", "json", "md", "html", "otlp-json"]
Rows = list[CatalogRow]


def export(
    *runs: Annotated[str, Flag("Run ids, or how they begin.")],
    format: Annotated[Format, Flag("What to write.")] = "jsonl",  # noqa: A002 - the flag's name
    output: Annotated[str | None, Flag("A file instead of the output.", ("--output", "-o"))] = None,
    force: Annotated[bool, Flag("Replace the file if it is there.")] = False,
    home: Home = None,
) -> int:
    """Write runs as jsonl, json, md, html or otlp-json. Needs no daemon."""
    from car_trio.cli.otlp import otlp_json

    if not runs:
        raise FailedError("runs export needs at least one RUN; car-trio runs ls lists what there is", USAGE)
    files = Files(home)
    rows = [files.row(name) for name in runs]
    writers: dict[str, Callable[[Files, Rows], Iterator[bytes]]] = {
        "jsonl": jsonl,
        "json": json_document,
        "md": markdown,
        "html": page,
        "otlp-json": otlp_json,
    }
    pieces = writers[format](files, rows)
    if output is None:
        show(pieces)
    else:
        save(pieces, output, force=force)
    return 0


def show(pieces: Iterable[bytes]) -> None:
    """To a pipe as it is, or to a terminal with what it would obey escaped."""
    if is_terminal():
        for piece in pieces:
            sys.stdout.write(escaped_json(piece.decode(errors="replace")))
    else:
        sys.stdout.flush()
        sys.stdout.buffer.writelines(pieces)
        sys.stdout.buffer.flush()


def save(pieces: Iterable[bytes], output: str, *, force: bool) -> None:
    """To a file, by way of another name beside it; what is no file, a pipe say, is written to as it is."""
    place = Path(output)
    if place.is_file() and not force:
        raise FailedError(
            f"'{output}' is there already; choose another --output, or use --force to replace it"
        )
    if place.exists() and not place.is_file():
        copy(pieces, place, output)
        return
    target = place.resolve()  # a link stays one: what it leads to is replaced
    with writing(output):
        descriptor, name = tempfile.mkstemp(prefix=f".{target.name[:80]}.", dir=target.parent)
    try:
        copy(pieces, descriptor, output, sync=True)
        with writing(output):
            Path(name).replace(target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def copy(pieces: Iterable[bytes], into: Path | int, output: str, *, sync: bool = False) -> None:
    """Writes all to a path or a descriptor, and closes it. What reading raises goes through as it is."""
    with writing(output):
        file = open(into, "wb")  # noqa: PTH123, SIM115 - it may be a descriptor; closing writes, so it fails like writing
    try:
        for piece in pieces:
            with writing(output):
                file.write(piece)
        with writing(output):
            file.flush()
            if sync:
                os.fsync(file.fileno())
    finally:
        with writing(output):
            file.close()


@contextmanager
def writing(output: str) -> Generator[None]:
    """A file that cannot be written is a mistake on the command line, and no damage to the store."""
    try:
        yield
    except OSError as error:
        raise FailedError(
            f"--output is '{output}', which cannot be written: {error.strerror}", USAGE
        ) from None


def jsonl(files: Files, rows: Rows) -> Iterator[bytes]:
    for row in rows:
        for record in files.records(ref_of(row)):
            yield record.raw + b"\n"


def json_document(files: Files, rows: Rows) -> Iterator[bytes]:
    """`{"runs": [{"run": RunSummary, "records": [...]}]}`, each record as it is on disk."""
    yield b'{"runs":['
    for number, row in enumerate(rows):
        yield b'%s{"run":%s,"records":[' % (b",\n" if number else b"\n", msgspec.json.encode(row.in_list()))
        for place, record in enumerate(files.records(ref_of(row))):
            yield (b",\n" if place else b"\n") + record.raw
        yield b"]}"
    yield b"]}\n"


def facts(row: CatalogRow) -> list[tuple[str, str]]:
    """What stands above a run's turns."""
    took = lasting(seconds_between(row.started_at, row.ended_at))
    return [
        ("agent", row.agent_id),
        ("status", f"{row.status} {row.outcome or ''}".strip()),
        ("began", row.started_at),
        ("took", took),
        ("size", f"{counted(row.turn_count, 'turn')}, {human_size(row.bytes)}"),
        *([("wanted", row.outcome_description)] if row.outcome_description else []),
    ]


def parts(turn: Turn) -> Iterator[tuple[str, str]]:
    """The fields of a turn that are worth reading, as text."""
    for name in ("prompt", "parameters", "output", "error"):
        value = getattr(turn, name)
        if value is not UNSET:
            yield name, value if isinstance(value, str) else bytes(value).decode(errors="replace")
    if turn.cli_outcome is not UNSET:
        cli = turn.cli_outcome
        yield "program", f"{cli.cli or ''}  {exit_of(cli)}".strip()
        if cli.output_tail and not is_in_output(cli.output_tail, turn):
            yield "output tail", cli.output_tail
    yield from (("cut", cut) for cut in cuts(turn.truncated))


def last_parts(ended: Ended) -> Iterator[tuple[str, str]]:
    """What the agent said of how the run went."""
    if isinstance(ended.termination, Outcome):
        outcome = ended.termination.outcome
        yield "summary", outcome.summary
        yield from (("evidence", piece) for piece in evidence(outcome))
        if told := counts(outcome.metrics):
            yield "counted", told
    yield from (("cut", cut) for cut in cuts(ended.truncated))


def title(turn: Turn) -> str:
    words = [turn.tool, turn.status, turn.verifier_verdict if turn.verifier_verdict != "not_run" else ""]
    if turn.policy_rejected is True and turn.status != "rejected":
        words.append("rejected")
    if turn.cli_outcome is not UNSET and ended_badly(turn.cli_outcome):
        words.append(exit_of(turn.cli_outcome))
    return " · ".join([f"{turn.index}", *(word for word in words if isinstance(word, str) and word)])


def markdown(files: Files, rows: Rows) -> Iterator[bytes]:
    for row in rows:
        yield f"# {_plain(row.intent) or 'a run'}\n\n- run: {_plain(row.run_id)}\n".encode()
        for name, value in facts(row):
            yield f"- {name}: {_plain(value)}\n".encode()
        for record in files.records(ref_of(row)):
            yield _as_markdown(record.raw).encode()
        yield b"\n"


def _as_markdown(raw: bytes) -> str:
    match decoded(raw):
        case Started(truncated=truncated):
            return "".join(f"- {_plain(cut)}\n" for cut in cuts(truncated))
        case Turn() as turn:
            return f"\n## {_plain(title(turn))}\n{_sections(parts(turn))}"
        case Ended() as ended:
            return f"\n## end · {_plain(_reason(ended))}\n{_sections(last_parts(ended))}"
        case Damaged() | None:
            return f"\n## unreadable\n\n{_fenced(raw.decode(errors='replace'))}\n"


def _sections(named: Iterable[tuple[str, str]]) -> str:
    return "".join(f"\n{name}\n\n{_fenced(value)}\n" for name, value in named)


def _reason(ended: Ended) -> str:
    end = ended.termination
    return end.outcome.status if isinstance(end, Outcome) else f"incomplete: {end.reason}"


def _plain(text: str) -> str:
    """Text that Markdown takes for text, also where it makes links of what looks like an address."""
    return ADDRESS.sub(
        lambda found: found[0][:-1] + "\\" + found[0][-1],
        "".join(
            f"\\{character}" if character in "\\`*_{}[]<>#|!&~" else character for character in one_line(text)
        ),
    )


ADDRESS = re.compile(r"\w:(?=//)|\b(?:mailto|xmpp):|\bwww\.|\w@", re.IGNORECASE)


def _fenced(text: str) -> str:
    """A block that its content cannot end: the fence is longer than any run of backticks in it."""
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}\n{escaped(text)}\n{fence}"


STYLE = """
:root{color-scheme:light dark}body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.3rem}dl{display:grid;grid-template-columns:6rem 1fr;gap:.1rem 1rem}dt{opacity:.6}dd{margin:0}
details{border-left:3px solid #8888;margin:.4rem 0;padding:.2rem .8rem}details.bad{border-color:#c33}
summary{cursor:pointer}pre{white-space:pre-wrap;overflow-wrap:anywhere;margin:.3rem 0;font-size:13px}b{opacity:.6}
"""


def page(files: Files, rows: Rows) -> Iterator[bytes]:
    """One file that needs nothing else: no script, no address, and a policy that forbids both."""
    yield (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>car-trio runs</title><style>{STYLE}</style>\n"
    ).encode()
    for row in rows:
        yield f"<h1>{_text(row.intent)}</h1>\n<dl><dt>run</dt><dd>{_text(row.run_id)}</dd>".encode()
        for name, value in facts(row):
            yield f"<dt>{name}</dt><dd>{_text(value)}</dd>".encode()
        yield b"</dl>\n"
        for record in files.records(ref_of(row)):
            yield _shown(record.raw).encode()
    yield b"</html>\n"


def _shown(raw: bytes) -> str:
    match decoded(raw):
        case Started(truncated=truncated):
            return "".join(f"<p>{_text(cut)}</p>\n" for cut in cuts(truncated))
        case Turn() as turn:
            bad = ' class="bad" open' if went_wrong(turn) else ""
            body = _blocks(parts(turn))
            return f"<details{bad}><summary>{_text(title(turn))}</summary>{body}</details>\n"
        case Ended() as ended:
            return f"<h2>end · {_text(_reason(ended))}</h2>{_blocks(last_parts(ended))}\n"
        case Damaged() | None:
            line = _text(raw.decode(errors="replace"))
            return f'<details class="bad"><summary>unreadable</summary><pre>{line}</pre></details>\n'


def _blocks(named: Iterable[tuple[str, str]]) -> str:
    return "".join(f"<b>{name}</b><pre>{_text(value)}</pre>" for name, value in named)


def _text(text: str) -> str:
    return html.escape(escaped(text))
