"""Figures and the terminal summary of a stored run; needs neither JAX nor the engine."""
