"""Requests and answers of the test clocks' API."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from clearspan.platform import ids
from clearspan.rebills.clocks_models import TestClock

Covers = Literal["customers", "tenant"]


class TestClockCreate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Make a test clock."""

    __test__ = False  # pytest: not a test class

    name: Annotated[str, Meta(min_length=1, max_length=200, pattern=r"^[^\x00]+$", examples=["A year of Basic"])]
    now_at: Annotated[
        datetime,
        Meta(description="Where it stands at first; in the years 2000 to 2100.", examples=["2027-01-31T09:30:00Z"]),
    ]
    covers: Annotated[
        Covers,
        Meta(
            description="customers: those made with it. tenant: also every customer made from now on without a clock of its own,"
            " until another clock covers the tenant or this one is released."
        ),
    ] = "customers"


class TestClockAdvance(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Let a test clock's time pass."""

    __test__ = False

    to: Annotated[
        datetime, Meta(description="Later than now_at, by five years at most.", examples=["2028-01-31T09:30:00Z"])
    ]


class TestClockOut(msgspec.Struct, frozen=True, kw_only=True):
    """A test clock."""

    __test__ = False

    id: str
    object: Literal["test_clock"]
    live: bool
    name: str
    covers: Covers
    status: Annotated[Literal["ready", "advancing"], Meta(description="advancing: on its way to target_at.")]
    now_at: datetime
    target_at: datetime | None
    steps: Annotated[int, Meta(description="Instants at which something was due, so far.")]
    sequence: Annotated[int, Meta(description="Grows with each change; of two copies the higher one is newer.")]
    created_at: datetime
    updated_at: datetime


class TestClockList(msgspec.Struct, frozen=True, kw_only=True):
    """A page of test clocks, newest first."""

    __test__ = False

    object: Literal["list"]
    data: list[TestClockOut]
    has_more: bool
    next_cursor: str | None


def clock_out(clock: TestClock) -> TestClockOut:
    """Render the current state."""
    return TestClockOut(
        id=ids.encode("tc", clock.id),
        object="test_clock",
        live=clock.live,
        name=clock.name,
        covers=clock.covers,  # type: ignore[arg-type]  # the column's CHECK holds the words
        status=clock.status,  # type: ignore[arg-type]  # likewise
        now_at=clock.now_at,
        target_at=clock.target_at,
        steps=clock.steps,
        sequence=clock.sequence,
        created_at=clock.created_at,
        updated_at=clock.updated_at,
    )


def clock_list(clocks: Sequence[TestClock], next_cursor: str | None) -> TestClockList:
    """A page."""
    data = [clock_out(clock) for clock in clocks]
    return TestClockList(object="list", data=data, has_more=next_cursor is not None, next_cursor=next_cursor)
