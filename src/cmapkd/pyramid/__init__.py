"""The unified pyramid: levels P2-P5 and L1-L4: forming, calibrated targets, comparison and projectors."""
