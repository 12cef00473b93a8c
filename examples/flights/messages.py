"""What travels: a row on the queue, a departure on the topic."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel


class Flight(BaseModel):
    """What makes a flight this flight."""

    year: int
    month: int
    day: int
    carrier: str
    flight: int
    origin: str
    sched_dep_time: int

    @property
    def flight_id(self) -> str:
        day = f"{self.year}-{self.month:02}-{self.day:02}"
        return f"{day}-{self.carrier}-{self.flight}-{self.origin}-{self.sched_dep_time:04}"


class FlightRow(Flight):
    """A row of the file, as it is sent: a cancelled flight has no times."""

    dest: str
    tailnum: str | None
    dep_time: int | None
    dep_delay: int | None
    sched_arr_time: int
    arr_time: int | None
    arr_delay: int | None
    air_time: int | None
    distance: int
    time_hour: datetime

    @property
    def cancelled(self) -> bool:
        return self.dep_time is None


class Departure(Flight):
    """A row as the handler wants it: it has departed. What it does not need it does not name."""

    dep_time: int
    dep_delay: int


class FlightDeparted(BaseModel):
    """Published once per departed flight. delay: minutes, negative when early."""

    flight_id: str
    carrier: str
    delay: int
