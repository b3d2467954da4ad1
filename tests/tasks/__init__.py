"""A task without JAX, and how tests drive studies of it: `python -m tests.tasks -m …`."""
