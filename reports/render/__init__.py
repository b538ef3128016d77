"""One file per output format, found by file name, each exposing RENDER: Callable[[Report], str]."""
