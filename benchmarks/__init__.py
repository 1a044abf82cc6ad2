"""Speed and memory ratios, each side by side in one run; `python -m benchmarks` prints them against their targets."""
