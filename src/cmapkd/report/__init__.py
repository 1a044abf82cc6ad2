"""Tables, plots and pages from finished runs and their logs."""
