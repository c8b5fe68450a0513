import pytest

from tests.helpers import runs


@pytest.fixture(scope="package", autouse=True)
def one_compilation():
    """Programs that are the same are compiled once."""
    with runs.compiled_once():
        yield
