"""Numbers into judgements and pictures. Knows numpy and qtools.core; no torch, no format SDK."""
