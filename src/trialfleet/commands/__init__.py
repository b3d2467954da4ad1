"""What the command `trialfleet` does: one module for each of its subcommands."""
