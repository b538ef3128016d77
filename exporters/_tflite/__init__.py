"""Private parts of the TFLite target."""
