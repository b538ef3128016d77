"""What models are for, one file per task, found by its name: each exposes TASK."""
