"""What all tests share: no network, one thread, and a tiny model with its tokenizer and texts."""

import os

os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

import pytest

import tiny
from magic_pyramid.classifier import use_threads

use_threads(1)


@pytest.fixture(scope="session")
def tiny_config():
    """Three layers, pruning and exits, three labels."""
    return tiny.CONFIG


@pytest.fixture(scope="session")
def tiny_model():
    """A random model of that config; tests that change a model build their own."""
    return tiny.build()


@pytest.fixture(scope="session")
def tiny_tokenizer():
    """A word tokenizer whose ids fit the model."""
    return tiny.tokenizer()


@pytest.fixture(scope="session")
def texts():
    """Short and long texts in the tokenizer's words."""
    return list(tiny.TEXTS)
