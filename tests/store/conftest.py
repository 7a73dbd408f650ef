"""A state root on a real disk, made ready as a start makes it."""

from __future__ import annotations

from pathlib import Path

import pytest

from car_trio.store.disk import Disk
from car_trio.store.layout import Layout


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout(tmp_path)
    layout.prepare(Disk())
    return layout
