"""The unified pyramid: levels P2-P5 and L1-L4, how they are formed, calibrated, matched and projected."""
