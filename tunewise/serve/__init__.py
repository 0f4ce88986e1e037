"""A base and what was made of it behind HTTP, as OpenAI's API: those that are asked together answer in one batch."""
