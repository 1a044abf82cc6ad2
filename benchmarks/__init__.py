"""Speed and memory ratios, both sides measured in one run; `python -m benchmarks` prints them with their targets."""
