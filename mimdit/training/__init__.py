"""Parts of a training run outside the model: losses, moving average, parameter groups and schedules, FLOPs, devices."""
