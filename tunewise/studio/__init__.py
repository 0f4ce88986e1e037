"""The studio: a local page on which a base and what was made of it are asked the same and answer side by side."""
