"""Scoring, metrics and retention: how good a tuned model is, and what it forgot."""
