"""Timing of repeated work."""

import time
from collections.abc import Callable
from typing import Any


def time_each(seconds: float, call: Callable[[], Any]) -> list[float]:
    """Returns the milliseconds of each call, after an untimed first one.

    Args:
      seconds: for which to go on; at least one call is timed.
      call: returns when its work is finished.
    """
    call()
    times, end = [], time.perf_counter() + seconds
    while not times or time.perf_counter() < end:
        began = time.perf_counter()
        call()
        times.append(1e3 * (time.perf_counter() - began))
    return times


def time_many(seconds: float, call: Callable[[], None], finish: Callable[[], Any]) -> float:
    """Returns the mean milliseconds of a call among many, after an untimed first one.

    Args:
      seconds: for which to go on.
      call: may return before its work is finished, so that calls overlap.
      finish: waits for the work of all calls.
    """
    call()
    finish()
    began, count = time.perf_counter(), 0
    while time.perf_counter() < began + seconds:
        call()
        count += 1
    finish()
    return 1e3 * (time.perf_counter() - began) / count
