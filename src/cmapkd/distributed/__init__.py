"""Several processes on one run: their places, how they start, meet, exchange values and notice that one is lost."""
