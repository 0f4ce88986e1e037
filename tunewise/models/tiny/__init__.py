"""`tiny`: the embedded base model, pre-trained here on a synthetic harbour town (see docs/tiny.md)."""

from pathlib import Path

FOLDER: Path = Path(__file__).parent / "weights"
"""The folder that `AutoModelForCausalLM.from_pretrained` and `AutoTokenizer.from_pretrained` load."""
