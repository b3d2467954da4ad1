"""A decoder-only language model of the Gemma 3 family, and how it reads and writes; workloads share it."""

PAD = 0  # the token that stands where there is none: before a prompt, and behind an end; it is never drawn
