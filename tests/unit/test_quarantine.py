"""The quarantine runs a suspect alone, for a bounded time."""

import asyncio
from collections.abc import Awaitable

from consumers.modes import Quarantine
from tests.support.waiting import until

LONG = 60.0  # no test waits for it


class Inside:
    """Jobs in quarantine, until the test releases them."""

    def __init__(self, quarantine: Quarantine):
        self.quarantine = quarantine
        self.names: list[str] = []
        self.release: dict[str, asyncio.Event] = {}
        self.tasks: set[asyncio.Task[None]] = set()

    def come(self, name: str, *, suspect: bool = False) -> None:
        self.release[name] = asyncio.Event()
        self.tasks.add(asyncio.create_task(self._stay(name, suspect=suspect)))

    async def _stay(self, name: str, *, suspect: bool) -> None:
        async with self.quarantine.enter(suspect=suspect):
            self.names.append(name)
            await self.release[name].wait()
            self.names.remove(name)

    def are(self, *names: str) -> Awaitable[list[str]]:
        return until(lambda: list(self.names), lambda inside: sorted(inside) == sorted(names), 10)

    async def all_leave(self) -> None:
        for event in self.release.values():
            event.set()
        await asyncio.gather(*self.tasks)


async def test_a_suspect_is_alone() -> None:
    inside = Inside(Quarantine(LONG))
    inside.come("before")
    await inside.are("before")
    inside.come("suspect", suspect=True)
    await asyncio.sleep(0)
    inside.come("after")
    await asyncio.sleep(0.05)
    assert inside.names == ["before"]
    inside.release["before"].set()
    await inside.are("suspect")
    inside.release["suspect"].set()
    await inside.are("after")
    await inside.all_leave()


async def test_a_suspect_that_hangs_stalls_the_others_for_no_longer_than_the_limit() -> None:
    inside = Inside(Quarantine(0.05))
    inside.come("suspect", suspect=True)
    await inside.are("suspect")
    inside.come("other")
    await inside.are("suspect", "other")
    await asyncio.wait_for(inside.quarantine.wait_until_open(), 5)
    await inside.all_leave()


async def test_a_neighbour_that_hangs_stalls_a_suspect_and_the_others_for_no_longer_than_the_limit() -> None:
    inside = Inside(Quarantine(0.05))
    inside.come("hangs")
    await inside.are("hangs")
    inside.come("suspect", suspect=True)
    await asyncio.sleep(0)
    inside.come("other")
    await inside.are("hangs", "suspect", "other")
    await inside.all_leave()


async def test_suspects_come_one_by_one() -> None:
    inside = Inside(Quarantine(0.05))
    for n in range(3):
        inside.come(f"suspect {n}", suspect=True)
    for n in range(3):
        await inside.are(f"suspect {n}")
        await asyncio.sleep(0.1)  # the quarantine is over, and no second suspect enters
        assert inside.names == [f"suspect {n}"]
        inside.release[f"suspect {n}"].set()
    await inside.all_leave()


async def test_between_two_suspects_the_others_get_as_much_time_as_they_lost() -> None:
    quarantine = Quarantine(0.2)
    inside = Inside(quarantine)
    inside.come("first", suspect=True)
    await inside.are("first")
    await asyncio.wait_for(quarantine.wait_until_open(), 5)
    may_close_at = quarantine._may_close_at
    assert may_close_at - quarantine._closed_at >= 0.4  # closed for 0.2 s, then open for as long
    inside.release["first"].set()
    inside.come("second", suspect=True)
    await inside.are("second")
    assert asyncio.get_running_loop().time() >= may_close_at
    await inside.all_leave()


async def test_a_suspect_that_is_cancelled_opens_the_door() -> None:
    inside = Inside(Quarantine(LONG))
    inside.come("suspect", suspect=True)
    await inside.are("suspect")
    (task,) = inside.tasks
    task.cancel()
    await asyncio.wait_for(inside.quarantine.wait_until_open(), 5)
