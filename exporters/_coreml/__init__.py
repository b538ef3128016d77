"""Private parts of the Core ML target."""
