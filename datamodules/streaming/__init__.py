"""The endless training stream: the order of the samples (`line`, `mixture`, `laps`), the batches (`stream`), where it stands (`state`)."""
