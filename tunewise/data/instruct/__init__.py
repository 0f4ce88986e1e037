"""Instruction sets from annotated data: templates that turn a task's rows into instructions and answers."""
