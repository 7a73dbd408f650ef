"""The two secrets of a start, and the files in which clients find them (protocol `wire.md` section 3).

A token file appears whole or not at all: it is written under another name, created exclusively and without following
links, and renamed into place. At a clean stop a file is removed only if it still holds our own token, because a
daemon with another state root may have put its own there since.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Generator
from pathlib import Path
from typing import NamedTuple

from car_trio.config import BUNDLE, Config, ConfigError

TOKEN_BYTES = 32


class Tokens(NamedTuple):
    token: str
    host_token: str


def token_files(config: Config) -> tuple[Path, Path]:
    """Where the daemon's token and the host's token are, in this order."""
    directory = config.token_directory
    return config.auth_token_file or directory / "auth-token", directory / "host-token"


@contextlib.contextmanager
def published_tokens(config: Config) -> Generator[Tokens]:
    """Mints both tokens and keeps their files for as long as the block runs.

    Raises `ConfigError` naming the path that cannot be used.
    """
    tokens = Tokens(secrets.token_urlsafe(TOKEN_BYTES), secrets.token_urlsafe(TOKEN_BYTES))
    files = token_files(config)
    try:
        for path, token in zip(files, tokens, strict=True):
            _publish(path, token)
        yield tokens
    finally:
        for path, token in zip(files, tokens, strict=True):
            _withdraw(path, token)


def _publish(path: Path, token: str) -> None:
    try:
        _private_directory(path.parent)
        if path.is_dir():
            raise IsADirectoryError("a directory is in its place")
        write_private(path, token.encode())
    except OSError as error:
        why = error.strerror or str(error)
        raise ConfigError(
            f"cannot write the token file {path}: {why}; make its directory yours with mode 0700, "
            "or choose another with --auth-token-file or --home"
        ) from error


def _private_directory(directory: Path) -> None:
    """Makes the directory, and what is missing above it, for this user alone. One that the user chose with
    --auth-token-file and that is there stays as it is; the one that is ours is closed to others."""
    for missing in [each for each in (*reversed(directory.parents), directory) if not each.exists()]:
        missing.mkdir(mode=0o700, exist_ok=True)
    found = directory.stat()
    if directory.name != BUNDLE:
        return
    if found.st_uid != os.geteuid():
        raise PermissionError(f"{directory} belongs to another user")
    if found.st_mode & 0o077:
        directory.chmod(0o700)


def write_private(path: Path, content: bytes) -> None:
    """Puts a file of mode 0600 into place, whole or not at all. Raises `OSError`."""
    beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        beside.replace(path)
    except OSError:
        beside.unlink(missing_ok=True)
        raise


def _withdraw(path: Path, token: str) -> None:
    with contextlib.suppress(OSError, UnicodeDecodeError):
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            ours = file.read(256).decode() == token
        if ours:
            path.unlink()
