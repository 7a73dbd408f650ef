"""The picture of `runs show`: what the command prints now, and nothing that a page would obey."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from documents import picture

HOSTILE = "\x1b[31m</text><script>alert(1)</script>\x1b[0m & \x1b[5m\x07 <a href='x'>"


def words(svg: str) -> str:
    """What is read in a picture, without what differs each time: ids, times, durations, sizes."""
    lines = ["".join(text.itertext()) for text in ElementTree.fromstring(svg).findall(".//{*}text")]
    differs = (
        r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|\b[0-9a-f]{8}$|\d{4}-\d\d-\d\d [\d:]+ UTC|[\d.]+ (s|kB)\b"
    )
    return "\n".join(re.sub(differs, "·", line) for line in lines)


def test_what_was_printed_is_text_in_the_picture_and_nothing_else():
    drawn = ElementTree.fromstring(picture.svg("cat <it>", HOSTILE))
    assert {each.tag.rpartition("}")[2] for each in drawn.iter()} == {"svg", "style", "rect", "text", "tspan"}
    (shown,) = [text for text in drawn.findall(".//{*}text") if "script" in "".join(text.itertext())]
    assert (
        "".join(shown.itertext())
        == "</text><script>alert(1)</script> & \N{REPLACEMENT CHARACTER} <a href='x'>"
    )
    assert [span.get("class") for span in shown.findall(".//{*}tspan")] == ["red"]


def test_the_picture_shows_what_the_command_prints_now(tmp_path, monkeypatch, capfd):
    kept = picture.MADE.read_text()
    monkeypatch.setattr(picture, "MADE", tmp_path / "pictures" / "made.svg")
    picture.main()
    assert words(kept) == words(picture.MADE.read_text()), "scripts/picture draws it"
    assert "read_file" in words(kept)
