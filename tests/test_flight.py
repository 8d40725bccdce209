from __future__ import annotations

import asyncio

from ragstone.flight import Flight, Flights

Words = Flight[str, str, int]


async def gather(flight: Words) -> tuple[str | None, list[str], int]:
    head = await flight.opened()
    events = [event async for portion in flight.follow() for event in portion]
    return head, events, await flight.landed()


def test_all_followers_see_all_events_whenever_they_join() -> None:
    async def scene() -> None:
        step = asyncio.Event()

        async def produce(flight: Words) -> None:
            flight.open("head")
            flight.add("a")
            step.set()
            await asyncio.sleep(0)
            flight.add("b")
            flight.land(2)

        flights: Flights[str, str, int] = Flights()
        flight, _ = flights.start("k", "me", produce)
        assert flights.get("k") is flight
        early = [asyncio.create_task(gather(flight)) for _ in range(50)]
        await step.wait()
        middle = asyncio.create_task(gather(flight))
        seen = [*await asyncio.gather(*early), await middle, await gather(flight)]
        assert seen == [("head", ["a", "b"], 2)] * 52

    asyncio.run(scene())


def test_a_flight_that_fails_before_it_opened_has_no_head() -> None:
    async def scene() -> None:
        async def produce(flight: Words) -> None:
            flight.land(-1)

        flight, _ = Flights[str, str, int]().start(None, "me", produce)
        assert await gather(flight) == (None, [], -1)

    asyncio.run(scene())


def test_a_flight_that_landed_can_be_followed_but_not_joined() -> None:
    async def scene() -> None:
        async def produce(flight: Words) -> None:
            flight.land(1)
            flight.land(2)

        flights: Flights[str, str, int] = Flights()
        flight, task = flights.start("k", "me", produce)
        await task
        assert flights.get("k") is None
        assert await flight.landed() == 1

    asyncio.run(scene())


def test_a_flight_goes_on_when_its_followers_leave_and_ends_when_all_are_closed() -> None:
    async def scene() -> None:
        async def produce(flight: Words) -> None:
            try:
                flight.open("head")
                await asyncio.Event().wait()
            finally:
                flight.land(0)

        flights: Flights[str, str, int] = Flights()
        flight, _ = flights.start("k", "me", produce)
        follower = asyncio.create_task(gather(flight))
        await flight.opened()
        follower.cancel()
        await asyncio.gather(follower, return_exceptions=True)
        assert flights.get("k") is flight
        await flights.close()
        assert flight.end == 0
        assert len(flights) == 0

    asyncio.run(scene())
