"""`cmapkd data inspect`: what a data set is, and the config block that reads it."""
