"""gaunlearn: how well does gradient ascent unlearn? Seeded trials, certified and stored."""

from gaunlearn.api import Certificate, Run, ascend, certify, load, run

__all__ = ["Certificate", "Run", "ascend", "certify", "load", "run"]
