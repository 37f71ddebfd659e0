"""Settings of all tests."""
from hypothesis import HealthCheck, settings

# On a slow or busy machine drawing the first example takes seconds; that is no fault of the code.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")
