"""Plan of a training run without its hardware: memory, bytes between GPUs, time and data, counted on shapes and priced by a table."""
