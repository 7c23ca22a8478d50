"""Programs that use `PoolExecutor` end when and as they should, and leave nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.promises.test_executor import is_gone, poll, written

SECONDS = 25


class Programs:
    """Writes programs, and runs them."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def write(self, text: str) -> Path:
        path = self._directory / "program.py"
        path.write_text(textwrap.dedent(text), encoding="utf-8")
        return path

    def run(self, text: str, *, code: int = 0, **options: object) -> str:
        """What a program prints, which ends by itself and has no error to tell."""
        command = [sys.executable, str(self.write(text))]
        env = {**os.environ, "HERE": str(self._directory)}
        ended = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
            env=env,
            **options,
        )  # pyright: ignore[reportCallIssue, reportArgumentType]
        assert (ended.returncode, ended.stderr) == (code, "")
        return ended.stdout


@pytest.fixture
def programs(tmp_path: Path) -> Programs:
    return Programs(tmp_path)


def test_what_was_submitted_is_done_at_exit(programs: Programs) -> None:
    assert programs.run(
        """
        from amnode import PoolExecutor

        if __name__ == "__main__":
            executor = PoolExecutor(2)
            for n in range(5):
                executor.submit(print, "done", flush=True)
            print("end of the program", flush=True)
        """
    ).splitlines() == ["end of the program", *["done"] * 5]


def test_functions_of_a_script_go_by_name_and_share_its_globals(programs: Programs) -> None:
    assert (
        programs.run(
            """
            from dataclasses import dataclass
            from amnode import PoolExecutor

            connection = None

            @dataclass
            class Point:
                x: int

            def begin(name):
                global connection
                connection = name

            def use(point):
                return connection, Point(point.x + 1)

            if __name__ == "__main__":
                def under_the_guard(n):
                    return n, connection

                with PoolExecutor(1, initializer=begin, initargs=("open",)) as executor:
                    name, point = executor.submit(use, Point(1)).result()
                    print(name, point, type(point) is Point)
                    print(executor.submit(under_the_guard, 3).result())
            """
        )
        == "open Point(x=2) True\n(3, 'open')\n"
    )


def test_functions_that_are_typed_in_share_their_globals(programs: Programs) -> None:
    text = textwrap.dedent(
        """
        from amnode import PoolExecutor
        def begin(name):
            global connection
            connection = name

        def use(n):
            return connection, n

        class Point:
            pass

        def same(point):
            return isinstance(point, Point), point

        with PoolExecutor(1, initializer=begin, initargs=("open",)) as executor:
            print(executor.submit(use, 3).result())
            found, point = executor.submit(same, Point()).result()
            print(found, type(point) is Point)
        """
    )
    ended = subprocess.run(
        [sys.executable, "-"],
        input=text,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert (ended.stdout, ended.stderr) == ("('open', 3)\nTrue True\n", "")


def test_a_script_without_its_guard_is_told_so(programs: Programs) -> None:
    said = programs.run(
        """
        from amnode import ExecutorBrokenError, PoolExecutor

        try:
            with PoolExecutor(1) as executor:
                print(executor.submit(pow, 2, 3).result())
        except ExecutorBrokenError as error:
            print("bootstrapping phase" in str(error.__cause__))
        """
    )
    assert said == "True\n"


def test_queues_locks_and_shared_memory_of_multiprocessing(programs: Programs) -> None:
    assert (
        programs.run(
            """
            import multiprocessing
            from multiprocessing.shared_memory import SharedMemory
            from amnode import PoolExecutor

            def begin(queue_, lock_):
                global queue, lock
                queue, lock = queue_, lock_

            def put(n):
                with lock:
                    queue.put(n)

            def fill(name):
                memory = SharedMemory(name=name)
                memory.buf[0] = 7
                memory.close()

            if __name__ == "__main__":
                context = multiprocessing.get_context("spawn")
                both = context.Queue(), context.Lock()
                with PoolExecutor(2, initializer=begin, initargs=both) as executor:
                    list(executor.map(put, range(5)))
                    print(sorted(both[0].get(timeout=10) for _ in range(5)))
                    memory = SharedMemory(create=True, size=16)
                    executor.submit(fill, memory.name).result()
                    print(memory.buf[0])
                    memory.close()
                    memory.unlink()
            """
        )
        == "[0, 1, 2, 3, 4]\n7\n"
    )


def test_a_fork_of_the_program_leaves_its_executor_alone(programs: Programs) -> None:
    said = programs.run(
        """
        import os, sys
        from amnode import PoolExecutor

        if __name__ == "__main__":
            with PoolExecutor(2) as executor:
                print(executor.submit(pow, 2, 3).result(), flush=True)
                if (child := os.fork()) == 0:
                    try:
                        executor.submit(pow, 2, 4)
                    except RuntimeError as error:
                        print(error, flush=True)
                    with PoolExecutor(1) as own:
                        print(own.submit(pow, 2, 5).result(), flush=True)
                    executor.shutdown()
                    sys.exit(0)
                os.waitpid(child, 0)
                print(executor.submit(pow, 2, 6).result(), flush=True)
        """
    )
    lines = said.splitlines()
    assert [lines[0], *lines[2:]] == ["8", "32", "64"]
    assert "was forked from; make another one here" in lines[1]


def test_few_descriptors_and_a_long_temporary_directory(
    programs: Programs, tmp_path: Path
) -> None:
    said = programs.run(
        """
        import os, resource, tempfile
        from amnode import PoolExecutor

        if __name__ == "__main__":
            directory = os.environ["HERE"] + "/" + "long" * 30
            os.makedirs(directory)
            tempfile.tempdir = os.environ["TMPDIR"] = directory
            resource.setrlimit(resource.RLIMIT_NOFILE, (48, 48))
            with PoolExecutor(4) as executor:
                print(sum(executor.map(abs, range(100))))
                print(len(executor.submit(bytes, 1 << 20).result()))
            print(os.listdir(directory))
        """
    )
    assert said == f"{sum(range(100))}\n{1 << 20}\n[]\n"


PRINTS = """
    import os, sys, threading
    from pathlib import Path
    from amnode import PoolExecutor

    def run(name):
        Path(os.environ["HERE"], name).write_text(str(os.getpid()))
        threading.Event().wait()

    if __name__ == "__main__":
        with PoolExecutor(2) as executor:
            futures = [executor.submit(run, str(n)) for n in range(2)]
            futures += [executor.submit(run, "never") for n in range(5)]
            for future in futures:
                future.result()
    """


@pytest.mark.needs("proc")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_nothing_is_left_of_a_program_that_is_ended(
    programs: Programs, tmp_path: Path, number: signal.Signals
) -> None:
    command = [sys.executable, str(programs.write(PRINTS))]
    env = {**os.environ, "HERE": str(tmp_path)}
    with subprocess.Popen(
        command,
        env=env,
        stderr=subprocess.PIPE,
        text=True,
        # A suite that a shell runs in the background ignores interrupts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as program:
        pids = [int(written(tmp_path / name)) for name in ("0", "1")]
        program.send_signal(number)
        assert program.wait(SECONDS)
        assert program.stderr is not None
        said = program.stderr.read()
    assert poll(lambda: all(is_gone(pid) for pid in pids))
    assert not (tmp_path / "never").exists()
    if number == signal.SIGINT:
        assert said.endswith("KeyboardInterrupt\n")
        assert "amnode-" not in said
