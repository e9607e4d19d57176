"""Parts of a training run outside the model: moving average, parameter groups and schedule, FLOPs, precision."""
