"""Tables, figures and pages made from records; computes nothing."""
