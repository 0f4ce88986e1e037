"""Reparametrising methods: a change of the weights, written in fewer numbers."""
