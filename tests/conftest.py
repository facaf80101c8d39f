"""How property tests run: no deadline, for no test may depend on how fast a machine is."""

import os

from hypothesis import HealthCheck, settings

settings.register_profile(
    "proxy",
    deadline=None,
    derandomize=os.environ.get("CI") == "true",
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("proxy")
