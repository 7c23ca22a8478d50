"""What a job raises is raised at its caller as what it was, where the caller knows it, with the
remote traceback; anything else is a `JobFailed`. All of them can be told from other errors.
"""

from __future__ import annotations

import pytest

from amnode import JobFailed, OptionError, RefusedError, Worker, failure_of
from tests.promises.job_workers import Jobs, Spoilt, TooBig
from tests.promises.pools import client_of, pool


async def test_known_ones_are_what_they_were() -> None:
    async with (
        pool(kind=Jobs) as supervisor,
        client_of(supervisor, kind=Jobs) as client,
        client.lease() as worker,
    ):
        with pytest.raises(ValueError) as value:
            await worker.call(Jobs.fail, "ValueError")
        assert type(value.value) is ValueError
        assert value.value.args == ("no luck", 7)
        assert (
            'raised("ValueError")' in value.value.__notes__[0]
            or "raise raised(kind)" in (value.value.__notes__[0])
        )
        with pytest.raises(KeyError):
            await worker.call(Jobs.fail, "KeyError")
        with pytest.raises(FileNotFoundError) as file:
            await worker.call(Jobs.fail, "OSError")
        assert (file.value.errno, file.value.filename) == (2, "/nowhere")
        with pytest.raises(UnicodeDecodeError) as text:
            await worker.call(Jobs.fail, "UnicodeDecodeError")
        assert text.value.object == b"\xff"
        with pytest.raises(ImportError) as missing:
            await worker.call(Jobs.fail, "ImportError")
        assert missing.value.name == "nothing"
        with pytest.raises(TimeoutError) as late:
            await worker.call(Jobs.fail, "TimeoutError")
        assert type(late.value) is TimeoutError
        with pytest.raises(TooBig, match="7 is over 5") as big:
            await worker.call(Jobs.fail, "TooBig")
        assert (big.value.size, big.value.limit) == (7, 5)
        with pytest.raises(Spoilt) as spoilt:
            await worker.call(Jobs.fail, "Spoilt")
        assert spoilt.value.parts == [1, 2]
        with pytest.raises(ValueError, match="object object"):
            await worker.call(Jobs.fail, "unencodable")
        for error in (value.value, file.value, big.value, spoilt.value):
            failure = failure_of(error)
            assert failure is not None
            assert failure.error_type == type(error).__name__
            assert "raise raised(kind)" in failure.traceback
            assert len(error.__notes__) == 1
        assert failure_of(ValueError("mine")) is None


@pytest.mark.parametrize("kind", ["StrayError", "StopAsyncIteration", "ExceptionGroup"])
async def test_others_are_failures_of_the_job(kind: str) -> None:
    async with (
        pool(kind=Jobs) as supervisor,
        client_of(supervisor, kind=Jobs) as client,
        client.lease() as worker,
    ):
        with pytest.raises(JobFailed) as caught:
            await worker.call(Jobs.fail, kind)
        assert caught.value.error_type == kind
        assert failure_of(caught.value) is caught.value
        assert "raise raised(kind)" in caught.value.__notes__[0]


async def test_a_client_that_has_only_the_name_of_the_kind_knows_what_its_job_knows() -> None:
    from amnode import Client

    async with (
        pool(kind=Jobs) as supervisor,
        Client(
            "me", "Jobs", Jobs.schema, addrs=[supervisor.address], token=supervisor.token
        ) as client,
        client.lease() as worker,
    ):
        with pytest.raises(TooBig):
            await worker.call(Jobs.fail, "TooBig")


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        (ValueError, "must be a tuple"),
        ((KeyboardInterrupt,), "subclasses of Exception"),
        ((7,), "subclasses of Exception"),
        ((RefusedError,), "an error of amnode"),
        ((TooBig, type("TooBig", (Exception,), {})), "two classes named TooBig"),
    ],
)
def test_exceptions_are_checked_where_the_class_is_made(classes: object, said: str) -> None:
    with pytest.raises(OptionError, match=said):
        type("Wrong", (Worker,), {"exceptions": classes})
