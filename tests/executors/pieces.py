"""What is done with each piece of software; see `__main__.py`."""

from __future__ import annotations

import asyncio
import logging
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from amnode import PoolExecutor


def square(n: Any) -> Any:
    return n * n


def sum_of_squares(x: Any) -> float:
    return float(np.sum(np.asarray(x) ** 2))


def log_probability(x: Any) -> float:
    return -0.5 * sum_of_squares(x)


def peak(x: float) -> float:
    return x + 0.01 / (0.0001 + x**2)


def use_joblib(executor: PoolExecutor) -> None:
    from joblib import Parallel, delayed, parallel_config

    with parallel_config(backend="amnode", n_jobs=2):
        assert Parallel()(delayed(square)(n) for n in range(50)) == [n * n for n in range(50)]
        assert Parallel()(delayed(lambda n: n + 1)(n) for n in range(5)) == [1, 2, 3, 4, 5]
        try:
            Parallel()(delayed(int)(text) for text in ["1", "x"])
        except ValueError:
            return
    raise AssertionError("what a call raised was lost")


def use_scikit_learn(executor: PoolExecutor) -> None:
    from joblib import parallel_config
    from sklearn.datasets import load_iris
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.model_selection import GridSearchCV, cross_val_score
    from sklearn.svm import SVC

    x, y = load_iris(return_X_y=True)
    with parallel_config(backend="amnode", n_jobs=2):
        assert cross_val_score(SVC(), x, y, cv=5).mean() > 0.9
        assert GridSearchCV(SVC(), {"C": [0.1, 1, 10]}, cv=3).fit(x, y).best_score_ > 0.9
        assert RandomForestClassifier(20, n_jobs=2).fit(x, y).score(x, y) > 0.9


def use_dask(executor: PoolExecutor) -> None:
    import dask
    import dask.array
    import dask.bag

    with dask.config.set(scheduler=executor):
        ones = dask.array.ones((2000, 2000), chunks=(500, 500))
        assert float((ones + ones.T).mean().compute()) == 2.0
        bag = dask.bag.from_sequence(range(100))
        assert bag.map(lambda n: n * n).sum().compute() == sum(n * n for n in range(100))


def use_distributed(executor: PoolExecutor) -> None:
    import dask
    from distributed import Client, Scheduler, Worker

    async def main() -> int:
        async with (
            Scheduler(host="127.0.0.1", port=0, dashboard=False) as scheduler,
            Worker(scheduler.address, host="127.0.0.1", executor={"pool": executor}),
            Client(scheduler.address, asynchronous=True) as client,
        ):
            with dask.annotate(executor="pool"):
                future = client.submit(square, 7)
            return await future

    logging.getLogger("distributed").setLevel(logging.WARNING)
    with TemporaryDirectory() as directory, dask.config.set(temporary_directory=directory):
        assert asyncio.run(main()) == 49


def use_xarray(executor: PoolExecutor) -> None:
    import dask
    import xarray

    with dask.config.set(scheduler=executor):
        array = xarray.DataArray(np.arange(1000.0).reshape(10, 100)).chunk({"dim_0": 2})
        assert float(array.sum().compute()) == 499500


def use_scipy(executor: PoolExecutor) -> None:
    from scipy.integrate import quad_vec
    from scipy.optimize import brute, differential_evolution, rosen

    found = differential_evolution(
        rosen, [(0, 2)] * 3, workers=executor.map, updating="deferred", maxiter=20, seed=1
    )
    assert found.fun < 1
    assert len(brute(rosen, ((-1, 1.5), (-1, 1.5)), Ns=10, workers=executor.map)) == 2
    assert abs(quad_vec(np.cos, 0, 1, workers=executor.map)[0] - np.sin(1)) < 1e-8


def use_emcee(executor: PoolExecutor) -> None:
    import emcee

    sampler = emcee.EnsembleSampler(16, 3, log_probability, pool=executor)
    sampler.run_mcmc(np.random.default_rng(1).normal(size=(16, 3)), 20)
    assert sampler.get_chain().shape == (20, 16, 3)


def use_adaptive(executor: PoolExecutor) -> None:
    import adaptive

    learner = adaptive.Learner1D(peak, bounds=(-1, 1))
    adaptive.BlockingRunner(learner, npoints_goal=50, executor=executor, ntasks=2)
    assert learner.npoints >= 50


def use_nevergrad(executor: PoolExecutor) -> None:
    import nevergrad

    optimizer = nevergrad.optimizers.OnePlusOne(parametrization=2, budget=60, num_workers=4)
    found = optimizer.minimize(sum_of_squares, executor=executor, batch_mode=False)
    assert sum_of_squares(found.value) < 10


def use_more_executors(executor: PoolExecutor) -> None:
    from more_executors import MapExecutor, RetryExecutor

    wrapped = MapExecutor(RetryExecutor(executor), lambda value: value + 1)
    assert wrapped.submit(square, 3).result() == 10
