"""Tables, figures and pages made from result files and run logs."""
