"""What a reference network learns, one file per task, found by its name: each exposes EXERCISE."""
