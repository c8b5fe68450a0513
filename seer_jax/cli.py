"""Command lines of the package: flags without globals, errors in one line, a cache of compiled programs."""

import contextlib
import functools
import os
import pathlib
import re
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import jax
from absl import flags, logging
from flax import traverse_util
from ml_collections import ConfigDict, config_dict
from ml_collections.config_flags import config_flags

from seer_jax import output
from seer_jax.config import AUTO
from seer_jax.run import resolve

# A field of the configuration given as 1e6: an integer if its value is whole.
_EXPONENT = re.compile(r"(?<=^--config\.)([\w.]+=)(\d+(?:\.\d+)?[eE]\+?\d+)$")
_OVERRIDE = re.compile(r"--config\.([\w.]+)(?:=|$)")
_SHIPPED_CONFIGS = pathlib.Path(__file__).parent / "configs"


class UsageError(Exception):
    """A command line that cannot be run; the message is one line that says why."""


class _ConfigParser(config_flags.ConfigFileFlagParser):
    """Loads a configuration by the name of a shipped one, or by the path of a file."""

    def parse(self, path: str) -> Any:
        name, *preset = path.split(":", 1)
        whole_path = ":".join([config_path(name), *preset])
        sys.modules.pop(f"{self.name}_config", None)  # of an earlier file, whose names the next one would inherit
        try:
            with _absl_warnings_off():
                config = super().parse(whole_path)
        except (Exception, SystemExit) as error:
            wrapped = str(error).startswith("Error whilst parsing config file")  # its message is a whole traceback
            cause = (error.__context__ if wrapped else None) or error
            raise flags.IllegalFlagValueError(f"--config={path}: {type(cause).__name__}: {cause}") from None
        if config is None:
            raise flags.IllegalFlagValueError(f"--config={path}: get_config gave None; it must give a ConfigDict")
        return config


@contextlib.contextmanager
def _absl_warnings_off() -> Iterator[None]:
    before = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(before)


def make_flags() -> flags.FlagValues:
    """Returns a set of flags with `--help`, separate from absl's global set."""
    values = flags.FlagValues()
    values.set_gnu_getopt()  # flags may follow operands
    flags.DEFINE_bool("help", False, "Show this help.", short_name="h", flag_values=values)
    return values


def define_config(values: flags.FlagValues, argv: list[str], text: str) -> None:
    """Defines `--config=NAME_OR_FILE[:PRESET]` and, for the fields that `argv` sets, `--config.FIELD=VALUE`.

    Args:
      values: the flags, from `make_flags`.
      argv: the command line that will be parsed; the first element is the program's name, or path.
      text: what the configuration is for; `--help` shows it, and after it what a value looks like.
    """
    text = f"{text} One of {', '.join(shipped_configs())}, or the path of a file (FILE.py); with :PRESET."
    define = functools.partial(config_flags.DEFINE_config_file, "config", None, text, flag_values=values)
    try:
        define(sys_argv=argv)
    except flags.Error:  # of --flagfile, which `parse` will raise again
        define(sys_argv=argv[:1])
    values["config"].parser = _ConfigParser("config")


def config_path(name: str) -> str:
    """Returns the path of the file that `--config` names, without a preset.

    Args:
      name: a path if it contains a slash or ends in `.py`, else the name of a shipped configuration.

    Raises:
      IllegalFlagValueError: no configuration of that name is shipped.
    """
    if "/" in name or name.endswith(".py"):
        return name
    if name not in shipped_configs():
        raise flags.IllegalFlagValueError(
            f"--config={name} is neither the path of a file (FILE.py) nor a shipped configuration:"
            f" {', '.join(shipped_configs())}"
        )
    return str(_SHIPPED_CONFIGS / f"{name}.py")


def shipped_configs() -> list[str]:
    """Returns the names of the configurations that come with the package."""
    return sorted(path.stem for path in _SHIPPED_CONFIGS.glob("*.py") if path.stem != "__init__")


@output.lossy()
def main(
    argv: list[str],
    doc: str | None,
    values: flags.FlagValues,
    command: Callable[..., int | None],
    refusals: tuple[type[Exception], ...] = (),
    *,
    takes_operands: bool = False,
) -> int:
    """Parses a command line and runs its command; returns an exit code.

    Args:
      argv: arguments; the first is the program's name, or path.
      doc: text that `--help` shows with the flags.
      values: the flags, from `make_flags`.
      command: called with `values` and, one by one, the operands; returns an exit code, or None for 0.
      refusals: errors, apart from `UsageError`, that it raises before it does anything: one line and exit code 2.
      takes_operands: whether there may be arguments that are not flags.
    """
    program = pathlib.Path(argv[0]).stem
    try:
        operands = parse(values, argv)
        if values.help:
            print(doc, values.get_help(), sep="\n")
            return 0
        if operands and not takes_operands:
            raise UsageError(f"unexpected argument {operands[0]!r}; flags look like --name=value")
        return command(values, *operands) or 0
    except (UsageError, *refusals) as error:
        print(f"{program}: {_in_one_line(error)}", file=sys.stderr)
        return 2
    except OSError as error:  # a file that cannot be read or written; its message names it
        print(f"{program}: {_in_one_line(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{program}: interrupted", file=sys.stderr)
        return 130


def parse(values: flags.FlagValues, argv: list[str]) -> list[str]:
    """Parses `argv`, whose first element is the program's name, into `values`; returns the operands.

    Raises:
      UsageError: a flag is unknown, has a bad value or none, or is given twice.
    """
    try:
        operands = values([_EXPONENT.sub(_whole, argument) for argument in argv])[1:]
    except Exception as error:
        if message := _unknown_override(values, argv):
            raise UsageError(message) from None
        raise _usage_error(error) from None
    for name in values:
        _check_given(values[name])
    return operands


def _usage_error(error: Exception) -> UsageError:
    if isinstance(error, flags.Error):
        return UsageError(str(error))
    return UsageError(f"the configuration cannot be read: {type(error).__name__}: {error}")


def _check_given(flag: flags.Flag) -> None:
    if flag.present > 1 and not isinstance(flag, flags.MultiFlag):
        raise UsageError(f"--{flag.name} is given {flag.present} times; give it once")
    if not flag.present or not isinstance(flag.value, str) or flag.name.startswith("config."):
        return
    if not flag.value:
        raise UsageError(f"--{flag.name} is empty; give it a value")
    if flag.value.startswith("--"):
        raise UsageError(f"--{flag.name} has no value: {flag.value} follows it")


def _unknown_override(values: flags.FlagValues, argv: list[str]) -> str | None:
    """Returns the sentence about the first `--config.FIELD` whose field the configuration file does not have."""
    if not _overridden(argv) or "config" not in values:
        return None
    without = [argument for argument in argv if not _OVERRIDE.match(argument)]
    try:
        config = read_config([argument for argument in without if argument.startswith("--config=")])
    except Exception:  # the file itself cannot be read, which is another error
        return None
    return _unknown_field(argv, config)


def _unknown_field(argv: list[str], config: ConfigDict) -> str | None:
    """Returns the sentence about the first `--config.FIELD` in `argv` whose field `config` does not have."""
    known = list(resolve.flat(config.to_dict()))
    sections = {name.rpartition(".")[0] for name in known}
    unknown = [name for name in _overridden(argv) if name not in known and name not in sections]
    if not unknown:
        return None
    return f"--config.{unknown[0]}: {resolve.unknown_field(unknown[0], config)}"


def _overridden(argv: list[str]) -> list[str]:
    """Returns the dotted names of the fields that a command line sets."""
    return [match[1] for argument in argv if (match := _OVERRIDE.match(argument))]


def _whole(match: re.Match) -> str:
    field, number = match.groups()
    return f"{field}{int(float(number))}" if float(number).is_integer() else match.group()


def loaded(config: ConfigDict) -> ConfigDict:
    """Returns the configuration; raises UsageError if its file cannot be read, which its first use would only show."""
    try:
        config.is_locked  # noqa: B018
    except OSError as error:
        raise UsageError(last_line(error)) from None
    except AttributeError:
        raise UsageError(f"get_config gave a {type(config).__name__}; it must give a ConfigDict") from None
    return config


def read_config(arguments: list[str]) -> ConfigDict:
    """Returns the configuration, unresolved, of `--config=NAME_OR_FILE:PRESET` and of `--config.FIELD=VALUE`.

    Raises:
      UsageError: the file cannot be read, or has no such field.
    """
    values, argv = make_flags(), ["config", *arguments]
    define_config(values, argv, "")
    parse(values, argv)
    return loaded(values.config)


def take_overrides(argv: list[str]) -> tuple[list[str], list[str]]:
    """Splits a command line without `--config` into all else and its `--config.FIELD=VALUE`, for `override`.

    Returns:
      The other arguments, and the overrides; all arguments and none if there is a `--config`.
    """
    others, overrides = list[str](), list[str]()
    for argument in argv:
        if argument == "--config" or argument.startswith("--config="):
            return argv, []
        needs_value = bool(overrides) and overrides[-1].startswith("--config.") and "=" not in overrides[-1]
        is_value = needs_value and not argument.startswith("--")
        (overrides if is_value or _OVERRIDE.match(argument) else others).append(argument)
    return others, overrides


def override(config: ConfigDict, overrides: list[str]) -> ConfigDict:
    """Returns a configuration with the values of `--config.FIELD=VALUE` arguments.

    Raises:
      UsageError: there is no such field, or it cannot have that value.
    """
    if message := _unknown_field(overrides, config):
        raise UsageError(message)
    values, argv = make_flags(), ["config", *overrides]
    typed = {name: _flag_value(value) for name, value in resolve.flat(config.to_dict()).items()}
    config = ConfigDict(traverse_util.unflatten_dict(typed, sep="."))
    config_flags.DEFINE_config_dict("config", config, "", flag_values=values, sys_argv=argv)
    parse(values, argv)
    return values.config


def _flag_value(value: Any) -> Any:
    """Returns a value of `config.json` with the type of the flag that replaces it."""
    if value is None:
        return config_dict.placeholder(object)
    if type(value) is int or value == AUTO:  # some fields may hold either
        return config_dict.FieldReference(value, field_type=object)
    return tuple(value) if isinstance(value, list) else value


def last_line(error: Exception) -> str:
    """Returns the last line of an error's message."""
    return (str(error).strip().splitlines() or [""])[-1].strip()


def _in_one_line(error: Exception) -> str:
    return "; ".join(line.strip() for line in str(error).strip().splitlines())


def use_compilation_cache() -> None:
    """Keeps compiled programs in the user's cache directory, unless JAX has a directory already."""
    if jax.config.jax_compilation_cache_dir is None:  # pyright: ignore[reportAttributeAccessIssue]
        home = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(home / "seer_jax" / "xla"))


@contextlib.contextmanager
def signals() -> Iterator[list[int]]:
    """Yields a list that receives the first SIGTERM, SIGINT or SIGHUP; a second SIGTERM or SIGINT ends the process.

    A SIGHUP that is ignored already, as by `nohup`, stays ignored. Further ones do nothing: when a terminal is closed,
    the shell and the kernel may both send one.
    """
    received: list[int] = []

    def receive(number: int, frame: FrameType | None) -> None:
        del frame
        if not received:
            received.append(number)
            for each in (signal.SIGTERM, signal.SIGINT):
                signal.signal(each, signal.SIG_DFL)

    caught = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        caught.append(signal.SIGHUP)
    before = {each: signal.signal(each, receive) for each in caught}
    try:
        yield received
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
