"""`cmapkd data inspect`: a report on a data set, and the config block that reads it."""
