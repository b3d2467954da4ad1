"""What a job runs: one run of a trial."""
