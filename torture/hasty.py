"""A daemon that looks at the clock, and for what has to go, four times a second: `python -m torture.hasty serve …`.

With `DEFECT` in the environment it has that one (`torture.planted`).
"""

from __future__ import annotations

from car_trio.__main__ import main
from car_trio.nursery import duties
from torture.planted import plant_from_environment

if __name__ == "__main__":
    plant_from_environment()
    duties.RETENTION_SECONDS = 0.25
    main()
