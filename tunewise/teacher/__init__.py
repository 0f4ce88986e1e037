"""Sets of instructions from a stronger model: asked by Self-Instruct or prompt by prompt, filtered, accounted for."""

from tunewise.teacher.endpoint import Address, Endpoint
from tunewise.teacher.generate import generate
from tunewise.teacher.settings import Extent, Wanted

__all__ = ["Address", "Endpoint", "Extent", "Wanted", "generate"]
