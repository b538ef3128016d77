"""Several batches at once, each on one core.

Networks for phones have layers so small that splitting one over cores gains little: two batches side by side take two
thirds of the time that two threads per batch take.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")

WORKERS = 4
"""At most: every worker holds a batch's activations."""


def side_by_side(work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Yields work(item) in the order of the items, computed on as many cores as there are (and WORKERS).

    No more items are taken than workers are free for, plus one. While it runs, torch uses one thread per call; what
    `work` raises is raised here, in order.

    Args:
        work: Called from several threads at once.
        items: Walked in the caller's thread.
    """
    source = iter(items)
    with one_core_each() as pool:
        pending: deque[Future[R]] = deque(pool.submit(work, item) for item in islice(source, _workers() + 1))
        try:
            while pending:
                result = pending.popleft().result()
                pending.extend(pool.submit(work, item) for item in islice(source, 1))
                yield result
        finally:
            for future in pending:
                future.cancel()


@contextmanager
def one_core_each() -> Iterator[ThreadPoolExecutor]:
    """Workers that each keep to one core; for many small steps, since a new worker is slow at its first operations."""
    with one_thread(), ThreadPoolExecutor(_workers(), "batch") as pool:
        yield pool


def _workers() -> int:
    return min(WORKERS, os.cpu_count() or 1)


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch splits no operation over cores inside: a second thread costs small layers more than it brings."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
