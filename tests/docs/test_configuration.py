"""The page about the configuration: it is up to date, and its rules are all the rules that the code checks."""

import ast
import dataclasses
import inspect
import itertools
import textwrap
import traceback

import pytest
from ml_collections import ConfigDict

from docs import configuration
from docs.configuration_rules import RULES, WARNINGS
from seer_jax import config as config_lib
from seer_jax import fields
from seer_jax.agents.registry import AGENTS
from seer_jax.envs import dmc
from seer_jax.envs.registry import SUITES
from seer_jax.run import resolve as resolve_lib
from seer_jax.run import rules
from seer_jax.run.resolve import ConfigError, resolve

# What these functions refuse is no rule between fields: a value alone, a missing name, a field that does not exist, an
# encoder of the user's own that fails.
FORM = {"plain_values", "_registered", "_complete", "_latent_size"}


def test_page_is_up_to_date():
    assert configuration.PAGE.read_text() == configuration.text(), "run python -m docs.configuration"


def test_page_lists_every_field_of_every_section_class():
    listed = set(configuration._SECTIONS)
    used = {algorithm.config_class for algorithm in AGENTS.values()} | {suite.config_class for suite in SUITES.values()}
    used |= {each for each in vars(config_lib).values() if dataclasses.is_dataclass(each)} - {config_lib.AgentConfig}
    assert listed == used
    lines = configuration.text().splitlines()
    for section_class, (section, _) in configuration._SECTIONS.items():
        for name, field in fields.fields_of(section_class).items():
            full_name = f"{section}.{name}".lstrip(".")
            assert any(line.startswith(f"| `{full_name}` | ") and field.meaning in line for line in lines)


def test_page_lists_every_preset_stage_and_suite():
    text = configuration.text()
    for algorithm in AGENTS.values():
        for name in algorithm.stage_names(config_lib.EncoderConfig(name="impala")):
            assert f"`{name}`" in text
    for suite in SUITES:
        assert f"`env.protocol` with `env.suite={suite}`" in text
    assert text.count("| `quick` | ") == text.count("| `paper` | ") == 2


def changed(config_file, example):
    """Returns the configuration of the preset `paper` with the values of an example."""
    values = config_file.get_config().to_dict()
    for name, value in example.items():
        section, _, leaf = name.rpartition(".")
        (values[section] if section else values)[leaf] = value
    return ConfigDict(values)


def refusal(config_file, example):
    """Returns the error with which an example is refused."""
    with pytest.raises(ConfigError) as caught:
        resolve(changed(config_file, example))
    return caught.value


@pytest.fixture
def any_camera(request, monkeypatch):
    """Lets any machine resolve and warn like a CPU that renders; camera 9 does not exist on any."""

    def require_rendering(task, camera_id, backend):
        if camera_id == 9:
            raise dmc.RenderingError(f"env.camera_id={camera_id} does not show {task}")

    monkeypatch.setattr(dmc, "require_rendering", require_rendering)
    monkeypatch.setattr(rules.jax, "default_backend", lambda: "cpu")


def refused_at(config_file, example):
    """Returns file and line of the `raise`."""
    frame = traceback.extract_tb(refusal(config_file, example).__traceback__)[-1]
    return frame.filename, frame.lineno


def rule_id(rule):
    return ",".join(f"{name}={value}" for name, value in rule.example.items())


@pytest.mark.parametrize("rule", RULES, ids=rule_id)
def test_preset_paper_follows_a_rule_whose_example_is_refused_in_one_line(rule, any_camera):
    resolve(rule.config_file.get_config())
    assert "\n" not in str(refusal(rule.config_file, rule.example))


def test_earlier_of_two_rules_is_checked_first(any_camera):
    for first, second in itertools.combinations(RULES, 2):
        if first.config_file is second.config_file and not first.example.keys() & second.example.keys():
            places = [refused_at(first.config_file, each) for each in (first.example, second.example | first.example)]
            assert places[0] == places[1], (rule_id(first), rule_id(second))


def raises_of(function):
    """Returns file, first and last line of every `raise` of an error in a function."""
    source, first = inspect.getsourcelines(function)
    tree = ast.parse(textwrap.dedent("".join(source)))
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Raise) and node.exc is not None]
    file = inspect.getsourcefile(function)
    return [(file, first + node.lineno - 1, first + node.end_lineno - 1) for node in found]


def checks_between_fields():
    """Returns the functions whose errors are rules."""
    functions = {name: each for name, each in vars(resolve_lib).items() if inspect.isfunction(each)}
    assert functions.keys() >= FORM
    checks = [each for name, each in functions.items() if name not in FORM and each.__module__ == resolve_lib.__name__]
    checks += [each for each in vars(rules).values() if inspect.isfunction(each) and each.__module__ == rules.__name__]
    checks += [check for suite in SUITES.values() for check in (suite.fill_unset, suite.check)]
    checks += [algorithm.check for algorithm in AGENTS.values()]
    return [check for check in checks if check.__name__ != "<lambda>"]


def test_rules_of_the_page_are_all_that_the_code_checks(any_camera):
    """Every `raise` of the checks between fields is reached by the example of exactly one rule."""
    expected = [place for function in checks_between_fields() for place in raises_of(function)]
    assert len(expected) > 20
    reached = []
    for rule in RULES:
        file, line = refused_at(rule.config_file, rule.example)
        places = [(f, begin, end) for f, begin, end in expected if f == file and begin <= line <= end]
        assert len(places) == 1, f"{rule.meaning} is refused in {file}:{line}"
        reached += places
    assert sorted(reached) == sorted(expected)


@pytest.mark.parametrize("rule", WARNINGS, ids=rule_id)
def test_preset_paper_follows_a_rule_whose_example_is_warned_of_in_one_line(rule, any_camera):
    assert rules.warnings(resolve(rule.config_file.get_config())) == []
    (message,) = rules.warnings(resolve(changed(rule.config_file, rule.example)))
    assert "\n" not in message
    assert all(name in message for name in rule.example)


def test_warnings_of_the_page_are_all_that_the_code_gives(any_camera):
    """Every `yield` of the functions that warn is reached by the example of exactly one rule."""
    functions = [rules._warnings, *(algorithm.warnings for algorithm in AGENTS.values())]
    trees = [ast.parse(inspect.getsource(function)) for function in functions]
    yields = sum(isinstance(node, ast.Yield) for tree in trees for node in ast.walk(tree))
    messages = [rules.warnings(resolve(changed(rule.config_file, rule.example))) for rule in WARNINGS]
    assert len({message.split(" ", 1)[1] for (message,) in messages}) == yields == len(WARNINGS)
