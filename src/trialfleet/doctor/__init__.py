"""Whether a machine and its cluster are ready for studies: one module for each kind of check."""
