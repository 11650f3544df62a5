"""Processes that all tests share: forking them and making them known to each other takes longer than a load."""

import pytest
from processes import Processes
from spread_models import checkpoint

import torchgraft as tg


@pytest.fixture(scope="session")
def two():
    with Processes(2) as processes:
        yield processes


@pytest.fixture(scope="session")
def four():
    with Processes(4) as processes:
        yield processes


@pytest.fixture(scope="session")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("files") / "whole.safetensors"
    tg.save(path, checkpoint())
    return path
