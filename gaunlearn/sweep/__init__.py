"""Sweeps: specification -> plan -> execution -> storage. Files, clocks and devices live here."""
