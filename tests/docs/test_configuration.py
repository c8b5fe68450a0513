"""The page on configuration: it is that of the code, and its rules are those that the code checks."""

import ast
import inspect
import textwrap
import traceback

import pytest

from configs import curl_dmc, rainbow_atari
from docs import configuration
from seer_jax.agents import curl, rainbow
from seer_jax.envs import atari_suite
from seer_jax.fields import ConfigError
from seer_jax.run import resolve

CHECKS = (
    resolve.resolve,
    resolve._resolve_encoder,
    resolve._check_schedule,
    resolve._check_updates,
    resolve._check_freeze_step,
    resolve._check_replay,
    rainbow._check,
    curl._check,
)


def refusal(rule):
    """Returns the error of a configuration that breaks a rule."""
    config = curl_dmc.get_config("quick") if rule.preset is None else rainbow_atari.get_config(rule.preset)
    config = config.unlock()
    for name, value in rule.overrides.items():
        section, _, leaf = name.rpartition(".")
        (config[section] if section else config)[leaf] = value
    with pytest.raises(ConfigError) as error:
        resolve.resolve(config)
    return error.value


def raises_of(function):
    """Returns file and lines of each `raise ConfigError` of a function, those in handlers of other errors left out."""
    lines, first = inspect.getsourcelines(function)
    tree = ast.parse(textwrap.dedent("".join(lines)))
    handled = {id(node) for each in ast.walk(tree) if isinstance(each, ast.ExceptHandler) for node in ast.walk(each)}
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Raise) and id(node) not in handled]
    return {
        (inspect.getsourcefile(function), range(first + node.lineno - 1, first + node.end_lineno)) for node in found
    }


def test_page_is_written_from_the_declarations():
    assert configuration.PAGE.read_text() == configuration.text()


@pytest.mark.parametrize("rule", configuration.RULES, ids=lambda rule: rule.message)
def test_rule_is_checked(rule):
    assert rule.message in str(refusal(rule))


def test_every_check_across_fields_is_a_rule_of_the_page():
    checked = set.union(*map(raises_of, CHECKS))
    assert len(checked) > 12
    raised = set()
    for rule in configuration.RULES:
        frame = traceback.extract_tb(refusal(rule).__traceback__)[-1]
        raised.add((frame.filename, frame.lineno))
    # An unknown task is refused by the suite.
    assert {place for place in raised if place[0] == inspect.getsourcefile(atari_suite)}
    missing = [(file, lines) for file, lines in checked if not any(f == file and line in lines for f, line in raised)]
    assert not missing
