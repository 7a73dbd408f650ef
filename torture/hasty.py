"""A daemon that looks at the clock, and for what has to go, four times a second: `python -m torture.hasty serve …`."""

from __future__ import annotations

from car_trio.__main__ import main
from car_trio.nursery import duties

if __name__ == "__main__":
    duties.RETENTION_SECONDS = 0.25
    main()
