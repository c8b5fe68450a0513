"""What importing the package sets, and what its pages say of it."""

import os
import re
import subprocess
import sys

import pytest

from docs import results

OPTION = "--xla_cpu_experimental_ynn_fusion_type"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", f"{OPTION}=-individual_convolution"),
        ("--xla_cpu_enable_fast_math=false", f"--xla_cpu_enable_fast_math=false {OPTION}=-individual_convolution"),
        (f"{OPTION}=", f"{OPTION}="),
    ],
)
def test_the_option_for_fast_convolutions_is_added_to_the_users(before, after):
    code = "import os, seer_jax, jax; jax.devices(); print(os.environ['XLA_FLAGS'])"
    environ = os.environ | {"XLA_FLAGS": before}
    out = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == after


def test_tables_of_results_are_those_of_the_records():
    assert results.PAGE.read_text() == results.text()
    readme = results.README.read_text()
    assert results.with_scores(readme) == readme
    assert readme.count("| Rainbow + SEER |") >= 1


@pytest.mark.parametrize(
    "page", sorted([results.README, *results.PAGE.parent.glob("*.md")]), ids=lambda page: page.name
)
def test_links_between_pages_lead_somewhere(page):
    links = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text())
    assert all((page.parent / link).exists() for link in links), links
