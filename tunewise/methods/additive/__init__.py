"""Additive methods: new layers inside the base."""
