"""A task that only sleeps, for as long as its parameter says, and notes when."""
