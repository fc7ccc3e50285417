"""A paper's tables measured again: datasets times methods times seeds, from one file."""

from magic_pyramid.reproduce.plan import Only, new_stages
from magic_pyramid.reproduce.run import Prepared, prepare, reproduce
from magic_pyramid.reproduce.suite import Suite, read_suite

__all__ = ["Only", "Prepared", "Suite", "new_stages", "prepare", "read_suite", "reproduce"]
