"""Exporters translate a plan into a target's format. They never decide."""
