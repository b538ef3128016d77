"""What is wrong: with the bytes that a device produced, or with this machine."""
