"""Rows -> examples -> token ids and label masks."""
