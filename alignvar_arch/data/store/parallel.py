"""Many calls at once, their results in order, few of them in memory.

Threads, not processes: OpenCV, hashing and reading release the interpreter, and images need not be copied.
"""

import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import cv2


@contextlib.contextmanager
def pool(workers: int):
    """Yields a thread pool; OpenCV uses one thread a call meanwhile and is silent, for what fails is reported by us.
    """
    threads, level = cv2.getNumThreads(), cv2.utils.logging.getLogLevel()
    cv2.setNumThreads(1)
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    executor = ThreadPoolExecutor(workers)
    try:
        yield executor
    finally:
        executor.shutdown(cancel_futures=True)
        cv2.setNumThreads(threads)
        cv2.utils.logging.setLogLevel(level)


def ahead(executor: ThreadPoolExecutor, calls: Iterable[Callable], limit: int) -> Iterator:
    """Yields what the calls return, in their order; at most `limit` are under way or wait to be taken."""
    waiting = deque()
    for call in calls:
        waiting.append(executor.submit(call))
        if len(waiting) >= limit:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
