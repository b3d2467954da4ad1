"""A study as one HTML file that needs no network: what was asked, what came of it, and what it cost."""
