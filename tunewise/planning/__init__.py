"""Before anything is spent: what a method would train and store."""

from tunewise.planning.parameters import ParameterPlan, plan

__all__ = ["ParameterPlan", "plan"]
