"""Tasks that go on in the background are ended, whatever they are doing."""

import asyncio

from backends.tasks import ended


async def test_all_are_over_whatever_has_come_of_them() -> None:
    gone = []

    async def waits() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            gone.append("waits")

    async def fails() -> None:
        raise OSError("there is nobody")

    loop = asyncio.get_running_loop()
    waiting, failing = loop.create_task(waits()), loop.create_task(fails())
    await asyncio.sleep(0)
    await ended(waiting, None, failing)
    assert gone == ["waits"]
    assert waiting.cancelled()
    assert isinstance(failing.exception(), OSError)


async def test_none_is_nothing_to_wait_for() -> None:
    await ended(None)
    await ended()
