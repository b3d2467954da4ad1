"""The study: its storage and its record, who may write it, what it searches and how it stands."""
