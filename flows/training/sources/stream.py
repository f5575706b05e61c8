"""Iterables on the host: looked into, begun again, and run ahead of in a thread."""

import collections
import itertools
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import jax
import jax.numpy as jnp

NOTHING = object()  # where there is no item


class Begun:
    """An iterable whose first item has been looked at.

    Iterating gives that item again, and goes on where the look ended; what an iterable gives when
    it is begun a second time may be something else.

    Args:
        iterable: Any iterable.

    Attributes:
        first: Its first item, or NOTHING.
    """

    def __init__(self, iterable: Iterable):
        self._iterable = iterable
        self._begun: Iterator | None = iter(iterable)
        self.first = next(self._begun, NOTHING)

    def __iter__(self) -> Iterator:
        begun, self._begun = self._begun, None
        if begun is None:
            return iter(self._iterable)
        return iter(()) if self.first is NOTHING else itertools.chain([self.first], begun)


def again(iterable: Iterable) -> Iterator:
    """Its items, over and over, until it gives none."""
    item: Any = None
    while item is not NOTHING:
        item = NOTHING
        for item in iterable:
            yield item


def ahead(items: Generator, limit: int) -> Generator[list[Any], None, None]:
    """Makes items in a thread, up to `limit` before they are used; gives those that are ready.

    An empty list says that the next is still on its way. What making an item raises is raised
    after the items before it were given.
    """
    precise = jnp.result_type(float) == jnp.float64  # a setting that may be of this thread alone

    def make() -> Any:
        with jax.enable_x64(precise):
            return next(items, NOTHING)

    pool = ThreadPoolExecutor(1)
    coming: collections.deque[Future] = collections.deque()
    try:
        while True:
            coming.extend(pool.submit(make) for _ in range(limit - len(coming)))
            wait([coming[0]], timeout=0.3)
            ready = list(itertools.takewhile(_has_item, coming))
            if not ready and coming[0].done() and not _has_item(coming[0]):
                coming[0].result()  # raises, unless the items have come to their end
                return
            for _ in ready:
                coming.popleft()
            yield [future.result() for future in ready]
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _has_item(future: Future) -> bool:
    return future.done() and future.exception() is None and future.result() is not NOTHING
