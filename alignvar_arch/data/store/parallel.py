"""Many calls at once, their results in order, few of them in memory.

Threads, not processes: OpenCV, hashing and reading release the interpreter, and images need not be copied.
"""

import contextlib
import threading
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
    executor, together = ThreadPoolExecutor(workers), threading.Barrier(workers)
    try:
        # All threads are there before there is work: one whose start is interrupted later is not waited for at the end.
        for started in [executor.submit(together.wait) for _ in range(workers)]:
            started.result()
        yield executor
    finally:
        together.abort()  # where the start was interrupted, nobody comes any more
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
