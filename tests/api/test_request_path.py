"""How far a reader goes to follow a small `POST /api/export`, from its endpoint to its response.

A *stop* is a call from one package of the layers in `pyproject.toml` into another. Each function counts at its first
such call. Consecutive calls into one package are one stop. The modules of the lowest layer, which all packages use,
count as one package. A stop is a *step back up* if it leads to a higher layer than the stop before, into a package that
the request has been in. A failure shows the path; a lower ceiling shows it, too.
"""

import sys
import tomllib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby, pairwise
from pathlib import Path
from types import CodeType, FrameType
from typing import NamedTuple

from service.api.exports import create_export
from tests.api.conftest import Create
from tests.support.factories import Connection, create_user_with

MAX_STOPS = 22
MAX_STEPS_BACK_UP = 5
PYPROJECT = Path(__file__).parent.parent.parent / "pyproject.toml"
LOWEST = "the lowest layer"


class Place(NamedTuple):
    """A package; `depth` is that of its layer, 0 at the top."""

    package: str
    depth: int


class Call(NamedTuple):
    place: Place
    function: str


async def test_a_small_export_is_followed_in_few_stops(database: Connection, create: Create) -> None:
    await _create_small(database, create)  # the first export of a process also looks up types
    with _following(create_export) as calls:
        await _create_small(database, create)
    stops = [next(group) for _, group in groupby(calls, key=lambda call: call.place)]
    path = "\n".join(f"{number:2} {stop.place.package:18} {stop.function}" for number, stop in enumerate(stops, 1))
    assert stops[0].place.package == "service.access", "the first call verifies the token"
    assert {"service.bookkeeping", "service.documents", "service.backends"} <= {stop.place.package for stop in stops}
    assert len(stops) <= MAX_STOPS, path
    assert _count_steps_back_up([stop.place for stop in stops]) <= MAX_STEPS_BACK_UP, path


async def _create_small(database: Connection, create: Create) -> None:
    created = await create(await create_user_with(database, 40))
    assert created.status_code == 201, created.text


@contextmanager
def _following(endpoint: Callable[..., object]) -> Iterator[list[Call]]:
    """The list grows by the calls from one package into another that `endpoint` makes, directly or not."""
    places = _read_places()
    seen: set[CodeType] = set()
    calls: list[Call] = []

    def note(frame: FrameType, event: str, _: object) -> None:
        place = _find_place(places, frame)
        if event != "call" or place is None or frame.f_code in seen:
            return
        callers = [caller for caller in _list_callers(frame) if _find_place(places, caller)]
        by_endpoint = any(caller.f_code is endpoint.__code__ for caller in callers)
        if by_endpoint and _find_place(places, callers[0]) != place:
            seen.add(frame.f_code)
            calls.append(Call(place, f"{frame.f_globals['__name__']}.{frame.f_code.co_qualname}"))

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        yield calls
    finally:
        sys.setprofile(before)


def _list_callers(frame: FrameType) -> Iterator[FrameType]:
    """The nearest first; a coroutine's is the one that awaits it."""
    while caller := frame.f_back:
        yield caller
        frame = caller


def _find_place(places: dict[str, Place], frame: FrameType) -> Place | None:
    """None for libraries and tests."""
    names = str(frame.f_globals.get("__name__")).split(".")
    return places.get(".".join(names[:2])) or places.get(names[0])


def _read_places() -> dict[str, Place]:
    contract = tomllib.loads(PYPROJECT.read_text())["tool"]["importlinter"]["contracts"][0]
    layers = [layer.replace(":", "|").replace(" ", "").split("|") for layer in contract["layers"]]
    places = {name: Place(name, depth) for depth, names in enumerate(layers) for name in names}
    return places | {name: Place(LOWEST, len(layers) - 1) for name in layers[-1]}


def _count_steps_back_up(stops: Sequence[Place]) -> int:
    been: set[Place] = set()
    count = 0
    for before, place in pairwise(stops):
        been.add(before)
        count += place.depth < before.depth and place in been
    return count
