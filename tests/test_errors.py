"""The errors: one family, each with its codes, each caught where a Python reader expects it."""

import pytest

from magic_pyramid import errors
from magic_pyramid.errors import (
    CheckpointError,
    ConfigError,
    InputError,
    MagicPyramidError,
    MissingExtraError,
    OverloadedError,
    nearest,
)

FAMILY = [ConfigError, InputError, CheckpointError, MissingExtraError, OverloadedError]


def test_the_family_is_closed():
    defined = {v for v in vars(errors).values() if isinstance(v, type) and issubclass(v, Exception)}
    assert defined == {MagicPyramidError, *FAMILY}


@pytest.mark.parametrize(
    ("error", "exit_code", "http_status"),
    [
        (MagicPyramidError, 1, 500),
        (ConfigError, 2, 422),
        (InputError, 2, 422),
        (CheckpointError, 3, 503),
        (MissingExtraError, 4, 501),
        (OverloadedError, 1, 429),
    ],
)
def test_each_error_carries_its_codes(error, exit_code, http_status):
    assert (error.exit_code, error.http_status) == (exit_code, http_status)


@pytest.mark.parametrize("error", FAMILY)
def test_one_clause_catches_the_family(error):
    with pytest.raises(MagicPyramidError, match="what was wrong"):
        raise error("what was wrong")


@pytest.mark.parametrize(
    ("error", "builtin"),
    [(ConfigError, ValueError), (InputError, ValueError), (MissingExtraError, ImportError)],
)
def test_an_error_is_also_the_builtin_it_specialises(error, builtin):
    assert issubclass(error, builtin)


def test_a_missing_extra_says_what_to_type():
    error = MissingExtraError.of("serving", library="Starlette", extra="serve")
    assert isinstance(error, MissingExtraError)
    assert str(error) == "serving needs Starlette: pip install 'magic-pyramid[serve]'"


def test_a_near_name_is_suggested():
    assert nearest("entrpy", ["entropy", "margin"]) == "did you mean 'entropy'? (known: entropy, margin)"


def test_a_far_name_gets_the_whole_list():
    assert nearest("zzz", ["entropy", "margin"]) == "known: entropy, margin"
