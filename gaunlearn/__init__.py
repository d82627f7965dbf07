"""gaunlearn: how well does gradient ascent unlearn? Seeded trials, certified and stored."""

from gaunlearn.api import Certificate, Limit, Run, ascend, certify, find_limit, load, run

__all__ = ["Certificate", "Limit", "Run", "ascend", "certify", "find_limit", "load", "run"]
