"""`car-trio config show`: what holds, and who said so."""

from __future__ import annotations

import tomllib
from typing import Any

import msgspec

from car_trio.cli.app import OK
from car_trio.cli.flags import Home, Json
from car_trio.cli.screen import say_json, styled
from car_trio.config import PROTOCOL_VARIABLES, SECTIONS, Config, environment, load, read_regular
from car_trio.wire.text import one_line


class Setting(msgspec.Struct):
    """A key with its value and where that comes from: `default`, the file's path or the name of a variable."""

    section: str
    key: str
    value: Any
    source: str


def show(*, home: Home = None, json: Json = False) -> int:
    """Each setting and where it comes from. A running daemon has what held when it started."""
    config = load({"home": home}, environment())
    found = settings(config)
    if json:
        places = {"home": str(config.home), "token_directory": str(config.token_directory)}
        say_json({**places, "settings": found, "warnings": config.warnings})
        return OK
    print(f"{styled('home', 'bold')} {one_line(str(config.home))}")
    print(f"{styled('tokens', 'bold')} {one_line(str(config.token_directory))}")
    section = ""
    for setting in found:
        if setting.section != section:
            section = setting.section
            print(f"\n{styled(f'[{section}]', 'bold')}")
        value = one_line(msgspec.json.encode(setting.value).decode())
        print(f"{setting.key:22} = {value:28} {styled(one_line(setting.source), 'dim')}")
    for warning in config.warnings:
        print(styled(f"\n! {one_line(warning)}", "yellow"))
    return OK


def settings(config: Config) -> list[Setting]:
    """Every key of every section. A value that was refused is the default again, and so is its source."""
    written = _written(config)
    return [
        Setting(section, key, value, _source(config, written, section, key))
        for section in SECTIONS
        for key, value in _effective(config, section).items()
    ]


def _effective(config: Config, section: str) -> dict[str, Any]:
    """The section as it is used: what follows from another setting is shown as what that makes it."""
    found = msgspec.structs.asdict(getattr(config, section))
    return found | {"port": config.web_port} if section == "web" else found


def _written(config: Config) -> dict[str, Any]:
    try:
        return tomllib.loads(read_regular(config.home / "config.toml").decode())
    except (OSError, ValueError):
        return {}


def _source(config: Config, written: dict[str, Any], section: str, key: str) -> str:
    environ = environment()
    variables = [f"CAR_TRIO_{section}_{key}".upper()]
    variables += [
        name for name, place in PROTOCOL_VARIABLES.items() if place == (section, key) and environ.get(name)
    ]
    if (section, key) == ("approvals", "enabled") and environ.get("CAR_NO_APPROVALS") == "1":
        return "CAR_NO_APPROVALS"
    sources = [name for name in variables if name in environ]
    table = written.get(section)
    if isinstance(table, dict) and key in table:
        sources.append(str(config.home / "config.toml"))
    places = [source if source in variables else f"{source}: [{section}] {key}" for source in sources]
    refused = [any(each.startswith(f"{place} is ") for each in config.warnings) for place in places]
    return next((source for source, no in zip(sources, refused, strict=True) if not no), "default")
