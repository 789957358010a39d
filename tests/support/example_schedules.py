"""Every registered schedule, with examples of the arguments that some of them need."""

import math

from cardiff.schedulers import SCHEDULES, NoiseSchedule


def example(name: str, **arguments) -> NoiseSchedule:
    """The schedule of that name with these arguments, and examples of those that have no default."""
    count = arguments.get("num_train_timesteps", 1000)
    required = {
        "knots": {"log_snr": [9.0, 4.0, 0.5, -3.0, -11.0]},
        "table": {"alphas_cumprod": [math.cos(0.49 * math.pi * (i + 1) / count) ** 2 for i in range(count)]},
    }
    return SCHEDULES[name](**{**required.get(name, {}), **arguments})
