"""The hosts of a run, each with a process of its own: what they exchange, and how they stop, fail and end together.

All processes run the same loop and take the same decisions. What a decision depends on and only one of them knows is
exchanged in small messages. Each message also says whether its host was asked to stop, or has failed, so that all do
the same in the same step. Process 0 alone writes files; the others see the same directory. With one process nothing is
exchanged.
"""

import collections
import contextlib
import json
import math
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, TypeVar

import jax
import numpy as np
from flax import serialization
from jax.experimental import multihost_utils

from seer_jax import status
from seer_jax.fields import ConfigError

T = TypeVar("T")
_MESSAGE_BYTES = 1024  # of an exchange; longer messages need a second one
_VALUE, _END = "value", "end"


class HostFailedError(Exception):
    """Another host ended its process, or its error is of no kind that this one knows; the message says what it was."""


class HostLostError(Exception):
    """Another host does not answer any more, and nothing can be exchanged."""


def are_several() -> bool:
    """Returns whether there are other processes; without them it uses no device."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


class Hosts:
    """The processes of a run.

    Args:
      stop: whether this process was asked to stop.

    Attributes:
      count: P, how many there are.
      index: number of this one, from 0 on.

    Raises:
      ConfigError: they have different numbers of devices.
    """

    def __init__(self, stop: Callable[[], bool] = lambda: False) -> None:
        self.count, self.index = 1, 0
        if are_several():
            self.count, self.index = jax.process_count(), jax.process_index()
            counts = collections.Counter(device.process_index for device in jax.devices()).values()
            if min(counts) != max(counts):
                raise ConfigError(
                    f"the processes have from {min(counts)} to {max(counts)} devices; start all with the same number"
                )
        self._stop, self._stopping = stop, False
        self._over = False  # whether nothing more can be exchanged, since this process or another has ended
        self._deferred: Exception | None = None

    @property
    def leads(self) -> bool:
        """Whether this process writes the files."""
        return self.index == 0

    def asks(self, stop: Callable[[], bool]) -> None:
        """Replaces the function that says whether this process was asked to stop."""
        self._stop = stop

    def stop(self) -> bool:
        """Returns whether to stop: one process asks, several know from their last exchange."""
        return self._stop() if self.count == 1 else self._stopping

    def exchange(self, value: Any = None) -> list[Any]:
        """Returns the values of all processes, in order, each of which calls this.

        Args:
          value: for JSON.

        Raises:
          HostLostError: another process does not answer.
          Exception: another process has failed; its error, or HostFailedError.
        """
        return [value] if self.count == 1 else self._exchange(_VALUE, value)

    def _exchange(self, kind: str, value: Any) -> list[Any]:
        if self._deferred is not None:
            kind, value = _END, _encode(self._deferred)
        with self._unless_lost():
            messages = self._gather({"kind": kind, "value": value, "stop": bool(self._stop())})
        self._stopping = self._stopping or any(message["stop"] for message in messages)
        if self._deferred is not None:
            self._over = True
            raise self._deferred
        for index, message in enumerate(messages):
            if message["kind"] == _END != kind:
                self._over = True
                raise _decode(message["value"], index)
        return [message["value"] for message in messages]

    @contextlib.contextmanager
    def _unless_lost(self) -> Iterator[None]:
        try:
            yield
        except (RuntimeError, ValueError) as error:
            self._over = True
            raise _lost(error) from None

    def _gather(self, message: Any) -> list[Any]:
        data = json.dumps(message).encode()
        size = len(data).to_bytes(4, "little")
        found = _all_gather(size + data[: _MESSAGE_BYTES - len(size)], _MESSAGE_BYTES)
        sizes = [int.from_bytes(each[: len(size)], "little") for each in found]
        found = [each[len(size) :] for each in found]
        if len(size) + max(sizes) > _MESSAGE_BYTES:
            found = _all_gather(data, _rounded(max(sizes)))
        return [json.loads(each[:n]) for each, n in zip(found, sizes, strict=True)]

    def attempt(self, work: Callable[[], T]) -> list[T]:
        """Does some work in each process and returns all results, which are for JSON.

        Raises:
          Exception: what the work raised in the first process in which it raised something; in all processes.
        """
        if self.count == 1:
            return [work()]
        error = None
        try:
            answer = {"result": work()}
        except Exception as raised:
            if self._over:
                raise
            error, answer = raised, {"error": _encode(raised)}
        answers = self.exchange(answer)
        for index, each in enumerate(answers):
            if "error" in each:
                raise error if error is not None and index == self.index else _decode(each["error"], index)
        return [each["result"] for each in answers]

    def apart(
        self, work: Callable[[Callable[[], bool]], T], stop: Callable[[], bool], stopped: type[Exception], every: int
    ) -> T:
        """Does in each process work of its own, which may take different times, and returns the result of its own.

        Args:
          work: called with a function that it calls before each of its steps: True asks it to raise `stopped`.
          stop: `stop` of this object, or of one process any other function.
          stopped: the error of work that was asked to stop; made without arguments.
          every: steps between two exchanges.

        Raises:
          Exception: what the work raised, in all processes; `stopped` only if it raised nothing else.
        """
        if self.count == 1:
            return work(stop)
        steps, failed = 0, False

        def asked() -> bool:
            nonlocal steps, failed
            steps += 1
            if steps % every == 0:
                failed = failed or any(each["error"] for each in self.exchange({"done": False, "error": None}))
            return failed or stop()

        result, error = None, None
        try:
            result = work(asked)
        except Exception as raised:
            if self._over:
                raise
            error = raised
        answer = {"done": True, "error": None if error is None else _encode(error)}
        answers = self.exchange(answer)
        while not all(each["done"] for each in answers):
            answers = self.exchange(answer)
        errors = [(i, each["error"]) for i, each in enumerate(answers) if each["error"]]
        errors.sort(key=lambda item: item[1]["type"] == _name(stopped))
        for index, each in errors[:1]:
            raise error if error is not None and index == self.index else _decode(each, index)
        return result  # pyright: ignore[reportReturnType]

    def lead(self, work: Callable[[], T], serve: Callable[[Any], None] = lambda request: None) -> T:
        """Does some work in process 0 and returns its result, which is for JSON, in all.

        Args:
          work: may call `request` and `asking`.
          serve: called in the other processes with each request.

        Raises:
          Exception: what the work raised, in all processes.
        """
        if self.count == 1:
            return work()
        if self.leads:
            try:
                result = work()
            except Exception as error:
                if not self._over:
                    self.exchange({"error": _encode(error)})
                raise
            self.exchange({"result": result})
            return result
        while True:
            answer = self.exchange()[0]
            if "error" in answer:
                raise _decode(answer["error"], 0)
            if "result" in answer:
                return answer["result"]
            serve(answer["request"])

    def request(self, request: Any) -> None:
        """Calls `serve` of `lead` with a request, for JSON, in the other processes."""
        self.exchange({"request": request})

    def asking(self, stop: Callable[[], bool]) -> Callable[[], bool]:
        """Returns what `stop` says after an exchange, for work that `lead` does and `serve` that ignores None."""
        if self.count == 1:
            return stop

        def asked() -> bool:
            self.request(None)
            return stop()

        return asked

    def broadcast(self, arrays: dict[str, Any] | None, source: int) -> dict[str, Any]:
        """Returns the arrays of one process in all of them, on the host and bit for bit.

        Args:
          arrays: nested dictionaries of arrays; of the process `source` alone.
          source: number of the process that has them.
        """
        if self.count == 1:
            assert arrays is not None
            return arrays
        data = b"" if arrays is None else serialization.msgpack_serialize(jax.device_get(arrays))
        size = self.exchange(len(data))[source]
        words = np.zeros(_rounded(size) // 4, np.uint32)  # as integers, whose sum with zeros is exact
        if self.index == source:
            words.view(np.uint8)[:size] = np.frombuffer(data, np.uint8)
        with self._unless_lost():
            words = multihost_utils.broadcast_one_to_all(words, is_source=self.index == source)
        found: Any = serialization.msgpack_restore(np.asarray(words).tobytes()[:size])
        return found

    def defer(self, error: Exception) -> None:
        """Raises an error of this process: at once if it is the only one, else at the next exchange and in all.

        Until then this process does what the others do, with which its programs may compute together.
        """
        if self.count == 1:
            raise error
        self._deferred = self._deferred or error

    def end(self, error: BaseException | None) -> None:
        """Ends this process for the others, which raise the error if they have not ended, too."""
        if self.count > 1 and not self._over:
            self._over = True
            self._exchange(_END, None if error is None else _encode(error))


_open: list[Hosts] = []  # those of the `together` that this process is in, if there are several


@contextlib.contextmanager
def together(stop: Callable[[], bool] = lambda: False) -> Iterator[Hosts]:
    """Yields the processes of a run, which end together: if one fails inside, all raise its error.

    Inside of another one it yields the same processes, which end with the outer one.

    Args:
      stop: whether this process was asked to stop.

    Raises:
      HostLostError: another process does not answer.
    """
    if _open:
        _open[0].asks(stop)
        with _ended_by_errors(_open[0]):
            yield _open[0]
        return
    hosts = Hosts(stop)
    if hosts.count == 1:
        yield hosts
        return
    _open.append(hosts)
    try:
        with _ended_by_errors(hosts):
            yield hosts
        hosts.end(None)
    finally:
        _open.clear()


@contextlib.contextmanager
def _ended_by_errors(hosts: Hosts) -> Iterator[None]:
    try:
        yield
    except HostLostError:
        raise
    except BaseException as error:
        if _is_lost(error):
            raise _lost(error) from None
        hosts.end(error)
        raise


def leave(code: int) -> NoReturn:
    """Ends this process at once: JAX would wait for the hosts that do not answer, and abort."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def initialize(coordinator: str, num_processes: int | None = None, process_id: int | None = None) -> None:
    """Connects this process to the others of a run; nothing may have used a device before.

    Args:
      coordinator: `HOST:PORT` at which process 0 listens, or `auto` for what the cluster says.
      num_processes: how many there are; None with `auto`.
      process_id: number of this one, from 0 on; None with `auto`.

    Raises:
      ConfigError: there is no such cluster, or the others cannot be reached.
    """
    address = None if coordinator == "auto" else coordinator
    try:
        with status.activity("waiting for the other processes"):
            jax.distributed.initialize(address, num_processes, process_id)
            jax.devices()  # they exchange what devices they have
    except (RuntimeError, ValueError, KeyError) as error:
        if coordinator == "auto" and not isinstance(error, RuntimeError):
            raise ConfigError(
                "--coordinator=auto finds no SLURM, Open MPI, Kubernetes or Cloud TPU that started this process; name"
                " the coordinator with --coordinator=HOST:PORT --num_processes=P --process_id=I"
            ) from None
        raise ConfigError(
            f"--coordinator={coordinator} cannot be used: {_first_line(error)}; start all processes with the same"
            " address, that of the machine of process 0 and a free port"
        ) from None


def _all_gather(data: bytes, size: int) -> list[bytes]:
    """Returns the data of all processes, padded to `size` bytes."""
    padded = np.zeros(size, np.uint8)
    padded[: len(data)] = np.frombuffer(data, np.uint8)
    return [each.tobytes() for each in multihost_utils.process_allgather(padded)]


def _rounded(size: int) -> int:
    """Returns a size that many messages have in common: the program of each other size is compiled anew."""
    return max(4 * _MESSAGE_BYTES, 2 ** math.ceil(math.log2(max(size, 1))))


def _is_lost(error: BaseException) -> bool:
    """Returns whether an error of a program says that another host did not take part in it."""
    return isinstance(error, (jax.errors.JaxRuntimeError, ValueError)) and any(
        sign in str(error) for sign in ("Gloo", "coordination service", "NCCL", "UNAVAILABLE")
    )


def _lost(error: BaseException) -> HostLostError:
    return HostLostError(f"another host does not answer any more ({_first_line(error)})")


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _name(error: type[BaseException]) -> str:
    return f"{error.__module__}:{error.__qualname__}"


def _encode(error: BaseException) -> dict[str, Any]:
    plain = all(isinstance(each, (str, int, type(None))) for each in error.args)
    return {"type": _name(type(error)), "args": error.args if plain else [], "text": _first_line(error)}


def _decode(found: dict[str, Any] | None, index: int) -> Exception:
    """Returns the error of a host again if it is of this package or of the system, else a `HostFailedError`."""
    if found is None:
        return HostFailedError(f"process {index} has ended, and this one has not")
    module, _, name = found["type"].partition(":")
    known = module == "builtins" or module.startswith("seer_jax.")
    kind = getattr(sys.modules.get(module), name, None) if known else None
    if isinstance(kind, type) and issubclass(kind, Exception):
        with contextlib.suppress(TypeError):
            return kind(*found["args"])
    return HostFailedError(f"process {index} failed: {name}: {found['text']}")
