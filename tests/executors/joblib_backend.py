"""A backend of joblib that runs its batches in a `PoolExecutor`."""

from __future__ import annotations

from typing import Any

from joblib import register_parallel_backend
from joblib._parallel_backends import AutoBatchingMixin
from joblib.parallel import ParallelBackendBase

from amnode import PoolExecutor


class PoolBackend(AutoBatchingMixin, ParallelBackendBase):
    supports_retrieve_callback = True

    def __init__(self, executor: PoolExecutor, **options: Any) -> None:
        super().__init__(**options)
        self.executor = executor

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        most = self.executor._max_workers
        return most if n_jobs is None or n_jobs < 0 else min(n_jobs, most)

    def configure(self, n_jobs: int = 1, parallel: Any = None, **_: Any) -> int:
        self.parallel = parallel
        return self.effective_n_jobs(n_jobs)

    def submit(self, func: Any, callback: Any = None) -> Any:
        future = self.executor.submit(func)
        if callback is not None:
            future.add_done_callback(callback)
        return future

    def retrieve_result_callback(self, out: Any) -> Any:
        return out.result()


def register(executor: PoolExecutor) -> None:
    """Makes `parallel_config(backend="amnode")` use an executor."""
    register_parallel_backend("amnode", lambda **options: PoolBackend(executor, **options))
