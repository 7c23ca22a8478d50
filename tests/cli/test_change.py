"""`amnode add` and `remove` change what a machine opens to operators, and nothing else."""

from __future__ import annotations

from tests.cli.running import amnode
from tests.cli.workers import Signal
from tests.promises.pools import client_of, pool


async def test_a_supervisor_is_operated_by_its_states() -> None:
    async with pool(1) as supervisor:
        done = await amnode("add", "Draining", "--json")
        assert done.code == 0 and done.json["states"] == {"Draining": 1}
        assert supervisor.machine.is1("Draining") and "Drained" in done.json["active"]
        text = await amnode("remove", "Draining")
        assert text.code == 0 and f"{supervisor.machine.id}: Draining:2" in text.out
        size = '{"min": 1, "max": 3, "warm": 1}'
        assert (await amnode("add", "SetPool", "--args", size)).code == 0
        assert supervisor.view().size.max == 3


async def test_a_worker_is_changed_as_far_as_its_class_opens_it() -> None:
    async with (
        pool(1, Signal) as supervisor,
        client_of(supervisor, kind=Signal) as client,
        client.lease() as worker,
    ):
        early = await amnode("add", "Lit", "-w", "1", "--args", '{"colour": "red"}')
        assert early.code == 4 and "Lit requires Powered, which is not active" in early.err
        assert (await amnode("add", "Powered", "-w", "1")).code == 0
        lit = await amnode("add", "Lit", "-w", "1", "--args", '{"colour": "red"}', "--json")
        assert lit.code == 0 and lit.json["machine"] == worker.id
        assert worker.machine.is_(("Powered", "Lit"))
        gone = await amnode("remove", "Powered", "-w", "1", "--json")
        assert gone.json["states"] == {"Powered": 2} and "Lit" not in gone.json["active"]
        await worker.call(Signal.burn_out)
        closed = await amnode("add", "Broken", "-w", "1")
        assert closed.code == 4 and "Broken is closed to add" in closed.err
        work = await amnode("add", "WorkRequested", "-w", "1", "--args", '{"job": "fail"}')
        assert work.code == 4 and "WorkRequested is closed" in work.err
        for state in ("Leased", "Start"):
            assert (await amnode("remove", state, "-w", "1")).code == 4


async def test_a_handler_that_says_no_is_told_with_its_reason() -> None:
    async with pool(1) as supervisor, client_of(supervisor) as client, client.lease():
        refused = await amnode("add", "RollingRestart")
        assert refused.code == 1 and "min and max are both 1" in refused.err
        as_json = await amnode(
            "add", "Releasing", "-w", "1", "--json", "--args", '{"epoch": 7}'
        )
        assert as_json.code == 4 and "no lease of epoch 7" in as_json.error["message"]


async def test_arguments_that_do_not_fit_are_a_usage_error_with_those_that_do() -> None:
    async with pool(1, Signal):
        assert (await amnode("add", "Powered", "-w", "1")).code == 0
        for args in ((), ("--args", '{"colour": 7}')):
            wrong = await amnode("add", "Lit", "-w", "1", *args)
            assert wrong.code == 2 and "Lit(colour: str, [seconds: float])" in wrong.err
        for text in ("{colour: red}", "[1]"):
            wrong = await amnode("add", "Lit", "-w", "1", "--args", text)
            assert wrong.code == 2 and "no JSON object" in wrong.err
        assert (await amnode("add")).code == 2
        assert (await amnode("add", "Nonsense")).code == 2
