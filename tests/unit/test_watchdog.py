"""The watchdog restarts stuck consumers, and no busy, paused or idle ones."""

from dataclasses import dataclass

import pytest

from consumers.watchdog import ConsumerStuck, Watchdog


@dataclass
class Scene:
    """A consumer of one queue, for the watchdog."""

    quiet: float | None = 100.0
    ready: int = 5
    idle: bool = True
    now: float = 1000.0
    rebuilds: int = 0

    def silent_seconds(self, queue: str) -> float | None:
        return self.quiet

    def rebuild(self) -> None:
        self.rebuilds += 1

    async def ready_messages(self, queue: str) -> int:
        return self.ready

    def watchdog(self) -> Watchdog:
        return Watchdog(self, {"q": lambda: self.idle}, self.ready_messages, seconds=30, monotonic=lambda: self.now)


async def _check_repeatedly(scene: Scene, watchdog: Watchdog, *seconds: float) -> None:
    """Check after each of these pauses."""
    for pause in seconds:
        scene.now += pause
        await watchdog.check()


async def test_a_stuck_consumer_is_made_anew_and_then_the_process_ends() -> None:
    scene = Scene()
    watchdog = scene.watchdog()
    await _check_repeatedly(scene, watchdog, 0, 10, 19.9)
    assert scene.rebuilds == 0
    await _check_repeatedly(scene, watchdog, 0.1)
    assert scene.rebuilds == 1
    await _check_repeatedly(scene, watchdog, 10, 10, 10)
    with pytest.raises(ConsumerStuck):
        await _check_repeatedly(scene, watchdog, 10)


async def test_being_stuck_again_much_later_is_a_new_case() -> None:
    scene = Scene()
    watchdog = scene.watchdog()
    await _check_repeatedly(scene, watchdog, 0, 30)
    scene.ready = 0
    await _check_repeatedly(scene, watchdog, 10)
    scene.ready = 5
    await _check_repeatedly(scene, watchdog, 1000, 30)
    assert scene.rebuilds == 2


async def test_a_message_that_has_come_this_moment_is_no_sign() -> None:
    scene = Scene(quiet=3600.0)
    watchdog = scene.watchdog()
    await _check_repeatedly(scene, watchdog, 0)
    scene.quiet = 5.0  # it was delivered since
    await _check_repeatedly(scene, watchdog, 10, 10, 10)
    assert scene.rebuilds == 0


@pytest.mark.parametrize("healthy", [{"quiet": 0.5}, {"quiet": None}, {"ready": 0}, {"idle": False}])
async def test_a_healthy_consumer_is_left_alone(healthy: dict[str, float]) -> None:
    scene = Scene(**healthy)  # type: ignore[arg-type]
    await _check_repeatedly(scene, scene.watchdog(), 0, 10, 10, 10, 10)
    assert scene.rebuilds == 0
