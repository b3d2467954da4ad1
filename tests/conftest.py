"""What all tests share: generated cases are the same in each run, and never too slow for a busy machine."""

from hypothesis import HealthCheck, settings

settings.register_profile(
    "everyday",
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("everyday")
