"""Attacks on detectors, one file each. To add one: a class that speaks :class:`robustdet.types.Attack`, and a yaml."""

from robustdet.attacks.adam import Adam
from robustdet.attacks.adaptive import Adaptive, FoolDiscriminator, OneHot
from robustdet.attacks.apgd import APGD
from robustdet.attacks.base import BaseAttack
from robustdet.attacks.bfloat16 import BFloat16
from robustdet.attacks.cwa import ClassWise
from robustdet.attacks.dag import DAG
from robustdet.attacks.dag_authors import DAGAuthors
from robustdet.attacks.highest_loss import HighestLoss
from robustdet.attacks.mtd import MTD
from robustdet.attacks.noise import Noise
from robustdet.attacks.pgd import PGD
from robustdet.attacks.randomness import image_generators
from robustdet.attacks.square import Square
from robustdet.attacks.threat import LInf, PixelRange
from robustdet.attacks.tog import Mislabelling
from robustdet.attacks.transfer import Transfer
from robustdet.attacks.victim import DetectorVictim

__all__ = [
    "APGD",
    "DAG",
    "MTD",
    "PGD",
    "Adam",
    "Adaptive",
    "BFloat16",
    "BaseAttack",
    "ClassWise",
    "DAGAuthors",
    "DetectorVictim",
    "FoolDiscriminator",
    "HighestLoss",
    "LInf",
    "Mislabelling",
    "Noise",
    "OneHot",
    "PixelRange",
    "Square",
    "Transfer",
    "image_generators",
]
