"""The data doctor: what is wrong with rows before anything is trained on them, how badly, and what to do about it."""

from tunewise.data.doctor.checks import CHECKS, Examination, described, examine
from tunewise.data.doctor.finding import Finding, Shown
from tunewise.data.doctor.reading import Reading
from tunewise.data.doctor.rows import Rows, at_most

__all__ = ["CHECKS", "Examination", "Finding", "Reading", "Rows", "Shown", "at_most", "described", "examine"]
