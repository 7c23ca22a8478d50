"""Arguments and results keep their types: arrays their dtype and shape, buffers what they are;
large ones cross beside the message. What does not fit is named before the job runs.
"""

from __future__ import annotations

import array
from typing import Any

import numpy as np
import pytest

from amnode import JobArgumentsError, JobFailed
from tests.promises.job_workers import Inner, Jobs, Outer, Picture
from tests.promises.pools import client_of, pool

BIG = 1 << 20


async def test_buffers_of_any_size_keep_their_kind() -> None:
    async with (
        pool(kind=Jobs) as supervisor,
        client_of(supervisor, kind=Jobs) as client,
        client.lease() as worker,
    ):
        for size in (0, 5, 64 * 1024 - 1, 64 * 1024, BIG):
            data = bytes(range(256)) * (size // 256 + 1)
            data = data[:size]
            assert await worker.call(Jobs.twice, data) == data
            assert await worker.call(Jobs.reversed, bytearray(data)) == bytes(reversed(data))
            assert bytes(await worker.call(Jobs.viewed, memoryview(data))) == data[:10]
            assert await worker.call(Jobs.anything, data) == data
            numbers = array.array("d", range(size // 8))
            got = await worker.call(Jobs.doubled, numbers)
            assert got == array.array("d", [2 * n for n in numbers])


async def test_arrays_keep_dtype_shape_and_order() -> None:
    rows = np.arange(6.0).reshape(2, 3)
    arrays = [
        rows,
        np.asfortranarray(rows),
        rows[:, ::2],
        np.arange(BIG).reshape(4, -1),
        np.asfortranarray(np.arange(BIG).reshape(4, -1)),
        np.zeros((0, 3)),
        np.array(7, np.int8),
        np.array([1 + 2j]),
        np.array(["2026-01-01"], "M8[D]"),
        np.array(["text", "more"]),
        np.zeros(3, [("a", "<i4"), ("b", "<f8", (2,))]),
        np.array([True, False]),
        np.arange(3, dtype=">i4"),
    ]
    async with (
        pool(kind=Jobs) as supervisor,
        client_of(supervisor, kind=Jobs) as client,
        client.lease() as worker,
    ):
        for sent in arrays:
            dtype, shape, got = await worker.call(Jobs.any_array, sent)
            assert (dtype, tuple(shape)) == (str(sent.dtype), sent.shape)
            assert got.dtype == sent.dtype
            assert got.shape == sent.shape
            np.testing.assert_array_equal(got, sent)
        np.testing.assert_array_equal(await worker.call(Jobs.scaled, rows, 3.0), rows * 3)
        picture = Picture("p", np.full((300, 300), 9, np.uint8))
        darker = await worker.call(Jobs.darker, picture)
        assert (darker.name, darker.pixels.shape) == ("p", (300, 300))
        assert np.all(darker.pixels == 4)
        assert await worker.call(Jobs.anything, np.float32(0.5)) == 0.5


async def test_what_cannot_be_an_argument_is_named_and_nothing_runs() -> None:
    objects = np.array([object()])
    masked: Any = np.ma.masked_array([1, 2], [True, False])
    wrong: Any = "no matrix"
    async with (
        pool(kind=Jobs) as supervisor,
        client_of(supervisor, kind=Jobs) as client,
        client.lease() as worker,
    ):
        with pytest.raises(JobArgumentsError, match=r"matrix of any_array.*Python objects"):
            await worker.call(Jobs.any_array, objects)
        with pytest.raises(JobArgumentsError, match=r"matrix of any_array.*mask"):
            await worker.call(Jobs.any_array, masked)
        with pytest.raises(JobArgumentsError, match="argument `matrix`"):
            await worker.call(Jobs.any_array, wrong)
        with pytest.raises(JobArgumentsError, match=r"array of `float64`.*argument `matrix`"):
            await worker.call(Jobs.scaled, np.arange(3))
        with pytest.raises(JobArgumentsError, match=r"array of `uint8`"):
            await worker.call(Jobs.darker, Picture("p", np.arange(3)))
        with pytest.raises(JobArgumentsError, match=r"argument `outer\.inner\.n`"):
            await worker.call(Jobs.nested, Outer(Inner(wrong), b"x" * BIG))
        with pytest.raises(JobArgumentsError, match="argument `data`"):
            await worker.call(Jobs.twice, wrong)
        assert await worker.call(Jobs.noted) == []
        assert await worker.call(Jobs.nested, Outer(Inner(7), b"x" * BIG)) == 7
        with pytest.raises(JobFailed, match=r"result of objects.*Python objects"):
            await worker.call(Jobs.objects)
