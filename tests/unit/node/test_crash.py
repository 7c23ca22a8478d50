from __future__ import annotations

from dataclasses import dataclass

import pytest

from amnode.errors import Cause
from amnode.node.names import EXIT_HARD_DEADLINE, EXIT_STUCK
from amnode.node.policy.crash import Hang, error, innermost, last_line, owed_to_its_job, report


@dataclass
class Facts:
    pid: int = 7
    exit_code: int | None = None
    signal: str = ""
    known: bool = True


@pytest.mark.parametrize(
    ("facts", "decided", "cause", "text"),
    [
        (Facts(exit_code=3), None, Cause.EXIT_CODE, "exited with code 3"),
        (Facts(exit_code=EXIT_HARD_DEADLINE), None, Cause.HARD_DEADLINE, "with code 72"),
        (Facts(signal="SIGSEGV"), None, Cause.SIGNAL, "was ended by SIGSEGV"),
        (Facts(known=False), None, Cause.LOST, "ended, nobody knows how,"),
        (Facts(signal="SIGKILL"), Cause.HANG, Cause.HANG, "was ended by SIGKILL"),
        (Facts(signal="SIGKILL"), Cause.START_TIMEOUT, Cause.START_TIMEOUT, "SIGKILL"),
    ],
)
def test_every_death_has_a_cause(
    facts: Facts, decided: Cause | None, cause: Cause, text: str
) -> None:
    made = report("w1", facts, state="leased", output=["x", "boom"], decided=decided, why="so")
    assert made.cause == cause
    assert text in made.message
    assert made.message.endswith("while leased: so; its last line: boom.")
    assert (made.pid, made.exit_code, made.signal) == (7, facts.exit_code, facts.signal)
    assert made.output == ("x", "boom") and made.state == "leased"


def test_a_deadline_that_the_worker_could_not_tell_of_is_in_what_faulthandler_wrote() -> None:
    lines = ["x", "Timeout (0:00:05.500000)!", "Thread 0x1 (most recent call first):", "  y"]
    assert report("w1", Facts(exit_code=1), state="", output=lines).cause == "hard deadline"
    for facts, said in (
        (Facts(exit_code=1), [*lines[:1], "Timeout (5)"]),
        (Facts(exit_code=2), lines),
        (Facts(signal="SIGKILL"), lines),
    ):
        made = report("w1", facts, state="", output=said)
        assert made.cause in (Cause.EXIT_CODE, Cause.SIGNAL)
        assert not owed_to_its_job(facts, said)
    assert owed_to_its_job(Facts(exit_code=1), lines)
    assert owed_to_its_job(Facts(exit_code=EXIT_STUCK), [])
    assert owed_to_its_job(Facts(exit_code=EXIT_HARD_DEADLINE), [])
    assert not owed_to_its_job(Facts(known=False), lines)


def test_one_that_wrote_nothing_says_so() -> None:
    made = report("w1", Facts(exit_code=0), state="idle")
    assert made.message == (
        "Worker w1 (pid 7) exited with code 0 while idle; it wrote nothing."
    )


STACK = (
    "Thread 0x00007f1 (most recent call first):",
    '  File "pool.py", line 3 in idle',
    "",
    "Current thread 0x00007f2 (most recent call first):",
    '  File "work.py", line 9 in block',
    '  File "main.py", line 1 in <module>',
)


def test_one_that_hung_says_where_it_was() -> None:
    facts = Facts(signal="SIGKILL")
    made = report("w1", facts, state="idle", decided=Cause.HANG, hang=Hang(stack=STACK))
    assert 'while idle; it was at File "work.py", line 9 in block; it wrote' in made.message
    assert (made.stack, made.stopped) == (STACK, False)
    raised = error("w1", made)
    assert raised.stack == STACK
    assert raised.__notes__ == ["\n".join(("Where the worker was:", *STACK))]
    assert innermost(()) == innermost(STACK[:1]) == innermost(("odd", "lines")) == ""


def test_one_that_was_stopped_is_said_to_be() -> None:
    facts = Facts(signal="SIGKILL")
    made = report("w1", facts, state="idle", decided=Cause.HANG, hang=Hang(stopped=True))
    assert "it was stopped, by SIGSTOP or a debugger; it wrote nothing." in made.message
    assert (made.stack, made.stopped) == ((), True)
    assert not hasattr(error("w1", made), "__notes__")


def test_the_last_line_cannot_forge_others_and_is_cut() -> None:
    assert last_line(["first", "\x1b[31mred\x07\r", "  \n"]) == r"\x1b[31mred\x07"
    assert last_line(["é ok"]) == "é ok"
    assert len(last_line(["x" * 999])) == 200
    assert last_line([]) == ""
