"""What hybrid and re-parameterized networks need before their ranges are taken."""
