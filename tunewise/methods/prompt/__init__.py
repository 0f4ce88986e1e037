"""Soft prompts: learned vectors that the base reads as if they were tokens."""
