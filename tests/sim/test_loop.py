"""The simulated loop: time, places, and what is left of them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from amnode.errors import SimulationError
from amnode.testing import Place, SimLoop


@pytest.fixture
def loop() -> Iterator[SimLoop]:
    made = SimLoop("1")
    yield made
    made.close()


def test_time_jumps_to_the_next_timer(loop: SimLoop) -> None:
    async def story() -> list[float]:
        await asyncio.sleep(3600.0)
        first = loop.time()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await asyncio.Event().wait()
        return [first, loop.time()]

    assert loop.run_until_complete(story()) == [3600.0, 3600.5]


def test_one_for_whom_nothing_will_ever_happen_is_named(loop: SimLoop) -> None:
    async def forever() -> None:
        await asyncio.Event().wait()

    async def story() -> None:
        await asyncio.create_task(forever(), name="the one who waits")

    with pytest.raises(SimulationError, match="the one who waits"):
        loop.run_until_complete(story())
    loop.end_place(loop.outer)
    loop.bury()


def test_one_who_goes_round_in_circles_is_stopped(loop: SimLoop) -> None:
    async def story() -> None:
        again = loop.create_future()

        def call() -> None:
            loop.call_soon(call)

        call()
        await again

    with pytest.raises(SimulationError, match="turns in the second"):
        loop.run_until_complete(story())
    loop.end_place(loop.outer)
    loop.bury()


def test_a_stopped_place_gets_all_that_waited_in_order(loop: SimLoop) -> None:
    place, seen = Place("p"), list[tuple[float, int]]()

    async def story() -> None:
        loop.stop_place(place)
        for n in range(3):
            loop.post(place, float(n), lambda n=n: seen.append((loop.time(), n)))
        await asyncio.sleep(10.0)
        assert not seen
        loop.continue_place(place)
        await asyncio.sleep(0.1)

    loop.run_until_complete(story())
    assert seen == [(10.0, 0), (10.0, 1), (10.0, 2)]
    assert place.pauses == 1


def test_no_code_of_a_place_that_is_gone_runs_until_it_is_buried(loop: SimLoop) -> None:
    place, seen = Place("p"), list[str]()

    async def life() -> None:
        try:
            await asyncio.sleep(1.0)
            seen.append("woke")
        finally:
            seen.append("tidied up")
            await asyncio.sleep(1.0)

    async def story() -> None:
        loop.post(place, 0.0, lambda: loop.create_task(life()))
        await asyncio.sleep(0.5)
        assert len(place.tasks()) == 1
        assert len(loop.timers_of(place)) == 1
        loop.end_place(place)
        await asyncio.sleep(5.0)

    loop.run_until_complete(story())
    assert seen == []
    loop.bury()
    assert seen == ["tidied up"]
    assert not place.tasks()
    assert not loop.uncaught


def test_what_a_callback_raises_is_kept(loop: SimLoop) -> None:
    async def story() -> None:
        loop.call_soon(lambda: 1 / 0)
        await asyncio.sleep(0.1)

    loop.run_until_complete(story())
    (said,) = loop.uncaught
    assert "ZeroDivisionError" in said


def test_the_code_of_an_exit_goes_to_who_asked_for_it(loop: SimLoop) -> None:
    exits = list[tuple[str, int]]()
    loop.on_exit = lambda place, code: exits.append((place.name, code))

    def leave() -> None:
        raise SystemExit(3)

    async def story() -> None:
        loop.post(Place("p"), 0.0, leave)
        await asyncio.sleep(0.1)

    loop.run_until_complete(story())
    assert exits == [("p", 3)]


def test_there_are_no_threads(loop: SimLoop) -> None:
    async def story() -> None:
        with pytest.raises(SimulationError, match="no threads"):
            await asyncio.to_thread(print)

    loop.run_until_complete(story())
