"""`amnode top` shows a pool again and again: on a terminal in place, else in a sequence."""

from __future__ import annotations

import asyncio
import os
import pty
import signal

from tests.cli.running import amnode, environment, start
from tests.promises.pools import pool


async def test_on_a_pipe_each_look_is_printed_plain() -> None:
    async with pool(1) as supervisor:
        ended = await amnode("top", "-n", 2, "-d", 0.05)
        looks = [line for line in ended.lines if line.startswith(f"{supervisor.name} (Plain)")]
        assert (ended.code, len(looks)) == (0, 2) and "\x1b" not in ended.out
        as_json = await amnode("top", "-n", 2, "-d", 0.05, "--json")
        assert len(as_json.lines) == 2


async def test_it_ends_with_ctrl_c_and_with_its_supervisor() -> None:
    async with pool(1) as supervisor:
        first, second = await start("top", "--json"), await start("top", "--json")
        for program in (first, second):
            await program.stdout.readline()
        first.send_signal(signal.SIGINT)
        assert (await first.communicate(), first.returncode)[1] == 130
        await supervisor.stop()
        _, err = await second.communicate()
        assert second.returncode == 3 and b"has ended" in err


async def test_a_pause_that_cannot_be_is_refused() -> None:
    ended = await amnode("top", "-d", 0)
    assert ended.code == 2 and "--every" in ended.err


async def on_a_terminal(*words: object, **env: str) -> tuple[int, str]:
    """Runs the program on a terminal, and presses Ctrl-C when it has shown something."""
    ours, theirs = pty.openpty()
    shown, loop = bytearray(), asyncio.get_running_loop()
    any_shown = asyncio.Event()

    def read() -> None:
        try:
            shown.extend(os.read(ours, 65536))
        except OSError:  # the other side is closed
            loop.remove_reader(ours)
        if b"WORKER" in shown:
            any_shown.set()

    loop.add_reader(ours, read)
    try:
        program = await start(
            *words,
            stdin=theirs,
            stdout=theirs,
            env={"TERM": "xterm", "COLUMNS": "120", "LINES": "30", **env},
            start_new_session=True,
        )
        os.close(theirs)
        try:
            async with asyncio.timeout(20):
                await any_shown.wait()
            program.send_signal(signal.SIGINT)
            await program.communicate()
        finally:
            if program.returncode is None:
                program.kill()
                await program.wait()
    finally:
        loop.remove_reader(ours)
        os.close(ours)
    return program.returncode, shown.decode()


async def test_on_a_terminal_it_stays_in_place_and_leaves_it_as_it_was() -> None:
    async with pool(1) as supervisor:
        code, shown = await on_a_terminal("top")
        assert code == 130 and "\x1b[?1049h" in shown and shown.endswith("\x1b[?25h\x1b[?1049l")
        assert supervisor.name in shown and "\x1b[1m" in shown
        _, plain = await on_a_terminal("top", NO_COLOR="1")
        assert supervisor.name in plain and "\x1b[3" not in plain
    assert "COLUMNS" in environment()
