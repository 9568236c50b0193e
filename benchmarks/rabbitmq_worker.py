"""A worker on RabbitMQ alone: it acknowledges each message at once, until SIGTERM."""

import asyncio
import sys

import aio_pika
from aio_pika.abc import AbstractIncomingMessage


async def main(url: str, name: str) -> None:
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel()
        await channel.set_qos(prefetch_count=10)
        queue = await channel.get_queue(name, ensure=False)

        async def acknowledge(message: AbstractIncomingMessage) -> None:
            await message.ack()

        await queue.consume(acknowledge)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2]))
