"""Frozen values, arithmetic and files shared by every stage. Standard library and numpy only."""
