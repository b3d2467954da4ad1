"""What the cluster runs and no person types by hand: batch scripts, job entries, the test cluster."""
