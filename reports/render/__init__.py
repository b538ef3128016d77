"""One file per output format, found by file name; those that show a Report expose RENDER: Callable[[Report], str]."""
