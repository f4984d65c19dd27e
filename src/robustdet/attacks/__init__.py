"""Attacks on detectors, one file each. To add one: a class that speaks :class:`robustdet.types.Attack`, and a yaml."""

from robustdet.attacks.cwa import ClassWise
from robustdet.attacks.dag import DAG
from robustdet.attacks.dag_authors import DAGAuthors
from robustdet.attacks.mtd import MTD
from robustdet.attacks.noise import Noise
from robustdet.attacks.pgd import PGD
from robustdet.attacks.randomness import image_generators
from robustdet.attacks.threat import LInf, PixelRange
from robustdet.attacks.victim import DetectorVictim

__all__ = [
    "DAG",
    "MTD",
    "PGD",
    "ClassWise",
    "DAGAuthors",
    "DetectorVictim",
    "LInf",
    "Noise",
    "PixelRange",
    "image_generators",
]
