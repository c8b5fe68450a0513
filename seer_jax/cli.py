"""Command lines of the package: flags without globals, errors in one line."""

from absl import flags


class UsageError(Exception):
    """A command line that cannot be run; the message is one line that says why."""


def make_flags() -> flags.FlagValues:
    """Returns a set of flags that holds `--help` alone, apart from absl's global one."""
    values = flags.FlagValues()
    flags.DEFINE_bool("help", False, "Show this help.", short_name="h", flag_values=values)
    return values


def parse(values: flags.FlagValues, argv: list[str]) -> None:
    """Parses `argv`, whose first element is the program's name, into `values`.

    Raises:
      UsageError: a flag is unknown or has a bad value, or an argument is left over.
    """
    try:
        rest = values(argv)[1:]
    except AttributeError as error:  # ml_collections names a missing field so
        raise UsageError(f"the configuration has no field {str(error).strip(chr(34))}") from None
    except flags.Error as error:
        # Errors inside a configuration file arrive as a whole traceback, whose last line says what is wrong.
        raise UsageError(last_line(error)) from None
    if rest:
        raise UsageError(f"unexpected argument {rest[0]!r}; flags look like --name=value")


def last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1].strip()
