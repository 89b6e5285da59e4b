"""What training costs: counted without a run, measured in a short one, and the table of both."""
