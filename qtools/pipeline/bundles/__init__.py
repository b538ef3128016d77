"""Packages that an app takes: one file per platform, found by its name, exposing BUNDLE; sources in templates/NAME."""
