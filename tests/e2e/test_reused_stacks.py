"""The stacks that tests reuse show nothing of the tests before."""

from tests.support.keys import create_key, until_keys_required
from tests.support.stacks import Stacks


async def test_a_stack_is_empty_when_it_is_lent_again(stacks: Stacks) -> None:
    async with stacks.lent() as first:
        await first.becomes(await first.submit(), "sent")
        await first.faults(fail=1, fail_status=400)
        await first.becomes(await first.submit(), "failed")
    async with stacks.lent() as second:
        assert second.namespace == first.namespace and second.processes == first.processes
        assert (await second.get("/messages"))[1]["data"] == [] and await second.provider("/messages") == []
        assert await second.ready("messages.dead") == 0
        await second.becomes(await second.submit(), "sent")
        await create_key(second, "shop")
        await until_keys_required(second)
    async with stacks.lent() as third:
        assert third.namespace == first.namespace and (await third.get("/messages"))[0] == 200, "no key is required"
        assert (await third.command("providers", "pause", "sandbox")).returncode == 0
    async with stacks.lent() as fourth:
        assert fourth.namespace != first.namespace, "a provider was paused"
        assert not any(process.is_alive() for process in third.processes.values())
