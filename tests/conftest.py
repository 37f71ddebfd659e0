"""What holds for all tests."""
import pytest
import torch


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup():
    "Each test, with its fixtures, draws the same numbers whatever ran before it."
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def floats_as_they_are():
    "`use_threads` flushes denormals in this process; hypothesis draws them."
    yield
    torch.set_flush_denormal(False)
