"""How detectors are defended: RobustDet (ECCV 2022), its parts, and the training methods it is compared with."""
