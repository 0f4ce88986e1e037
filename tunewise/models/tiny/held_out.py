"""What pre-training must never show: the prompt formats and the label words of the embedded tasks."""

FORMATS = (
    "Review:",
    "Sentiment:",
    "Premise:",
    "Hypothesis:",
    "Entailed:",
    "Source:",
    "Target:",
    "Article:",
    "Headline:",
    "Human:",
    "Assistant:",
)
LABELS = ("positive", "negative", "true", "false")


def shows(text: str) -> tuple[str, ...]:
    """The held-out strings that a text contains, in whatever case."""
    lowered = text.lower()
    return tuple(string for string in (*FORMATS, *LABELS) if string.lower() in lowered)


def is_field_name(word: str) -> bool:
    """Whether a word would be one of the held-out strings, or become one when a colon follows it."""
    return bool(shows(f"{word}:"))
