"""`car-trio ui`: a browser that is signed in.

The code that lets it in is behind the `#` of the address, which a browser sends to nobody. Where no browser can be
seen the address is printed; a text browser would take the terminal and cannot show the page.
"""

from __future__ import annotations

import sys
import webbrowser
from typing import Annotated

from car_trio.cli.app import OK
from car_trio.cli.calling import talk
from car_trio.cli.flags import Flag, Home
from car_trio.config import environment
from car_trio.wire.host import WebCode
from car_trio.wire.text import one_line


def ui(
    *,
    printed: Annotated[
        bool, Flag("Print the address instead; it works once and for a minute.", ("--print",))
    ] = False,
    home: Home = None,
) -> int:
    """Open the page in a browser, signed in."""
    found = talk(home, lambda car: car.call("host.web_code", None, WebCode))
    address = f"{found.url}#code={found.code}"
    if not printed and has_screen() and webbrowser.open(address):
        print(f"opened {one_line(found.url)}")
        return OK
    if not printed:
        print("car-trio: no browser can be opened here; open this address in one:", file=sys.stderr)
    print(one_line(address))
    return OK


def has_screen() -> bool:
    """Whether a browser would have where to show itself. Who sets `BROWSER` knows."""
    environ = environment()
    names = ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")
    return sys.platform == "darwin" or any(environ.get(name) for name in names)
