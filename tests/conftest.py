"""What holds for all tests."""
import pytest
import torch


@pytest.fixture(autouse=True)
def floats_as_they_are():
    "`use_threads` flushes denormals in this process; hypothesis draws them."
    yield
    torch.set_flush_denormal(False)
