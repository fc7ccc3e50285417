"""Speed settings with a guarantee: how much accuracy a setting may lose, with which confidence."""

from magic_pyramid.certify.certificate import SPEEDS, Certificate, CurvePoint, Speed, stored_speed
from magic_pyramid.certify.outcomes import Outcomes, answers_of, outcomes_of, wanted_answers
from magic_pyramid.certify.search import Goal, certify
from magic_pyramid.certify.temperature import fit_temperatures

__all__ = [
    "SPEEDS",
    "Certificate",
    "CurvePoint",
    "Goal",
    "Outcomes",
    "Speed",
    "answers_of",
    "certify",
    "fit_temperatures",
    "outcomes_of",
    "stored_speed",
    "wanted_answers",
]
